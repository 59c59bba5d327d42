package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

// object is what the tests look at in an object of the manifest.
type object struct {
	Kind string
	Spec struct {
		Selector yaml.Node // of a Service it has the labels, and of others matchLabels
		Ports    []struct {
			TargetPort string `yaml:"targetPort"`
		}
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     struct {
				Grace      int `yaml:"terminationGracePeriodSeconds"`
				Containers []containerSpec
			}
		}
	}
}

type containerSpec struct {
	Args  []string
	Ports []struct {
		Name          string
		ContainerPort string `yaml:"containerPort"`
	}
	Lifecycle struct {
		PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
	}
	ReadinessProbe probe `yaml:"readinessProbe"`
	LivenessProbe  probe `yaml:"livenessProbe"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// manifest returns the objects of the manifest by their kinds.
func manifest(t *testing.T) map[string]object {
	t.Helper()
	b, err := os.ReadFile("manifest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]object{}
	for d := yaml.NewDecoder(bytes.NewReader(b)); ; {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		objects[o.Kind] = o
	}
}

// container is the only container of the Deployment.
func container(t *testing.T) containerSpec {
	t.Helper()
	c := manifest(t)["Deployment"].Spec.Template.Spec.Containers
	if len(c) != 1 {
		t.Fatalf("%d containers, want 1", len(c))
	}
	return c[0]
}

// The pod is not killed before it has drained.
func TestGrace(t *testing.T) {
	spec := manifest(t)["Deployment"].Spec.Template.Spec
	opts, err := parse(container(t).Args)
	if err != nil {
		t.Fatal(err)
	}
	grace, sleep := time.Duration(spec.Grace)*time.Second, time.Duration(container(t).Lifecycle.PreStop.Sleep.Seconds)*time.Second
	if sleep <= 0 {
		t.Error("preStop does not sleep")
	}
	if grace <= sleep+opts.drain {
		t.Errorf("the pod is killed after %v, and needs %v and %v", grace, sleep, opts.drain)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{
		fmt.Sprintf("| `preStop` | %.0f s |", sleep.Seconds()),
		fmt.Sprintf("| SIGTERM, `-drain` | up to %.0f s |", opts.drain.Seconds()),
		fmt.Sprintf("over the first %.0f s", opts.drain.Seconds()/2),
		fmt.Sprintf("| `terminationGracePeriodSeconds` | %.0f s |", grace.Seconds()),
	} {
		if !strings.Contains(string(readme), row) {
			t.Errorf("README.md does not say %q", row)
		}
	}
}

// All objects mean the same port, which is the one that the program listens on, and the same pods.
func TestPorts(t *testing.T) {
	c, objects := container(t), manifest(t)
	opts, err := parse(c.Args)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(opts.addr)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Ports) != 1 || c.Ports[0].ContainerPort != port {
		t.Fatalf("the container has the ports %v, and the program listens on %s", c.Ports, port)
	}
	service := objects["Service"].Spec.Ports
	if len(service) != 1 {
		t.Fatalf("the Service has %d ports, want 1", len(service))
	}
	for what, p := range map[string]string{
		"readinessProbe": c.ReadinessProbe.HTTPGet.Port, "livenessProbe": c.LivenessProbe.HTTPGet.Port, "Service": service[0].TargetPort,
	} {
		if p != c.Ports[0].Name && p != port {
			t.Errorf("%s has the port %q, which the container has not", what, p)
		}
	}
	for kind, path := range map[string]string{"Service": "", "Deployment": "matchLabels", "PodDisruptionBudget": "matchLabels"} {
		var labels map[string]string
		selector, nested := objects[kind].Spec.Selector, map[string]map[string]string{}
		if path == "" {
			err = selector.Decode(&labels)
		} else if err = selector.Decode(&nested); err == nil {
			labels = nested[path]
		}
		if pods := objects["Deployment"].Spec.Template.Metadata.Labels; err != nil || len(labels) == 0 || !maps.Equal(labels, pods) {
			t.Errorf("%s selects %v, and the pods are %v: %v", kind, labels, pods, err)
		}
	}
	if opts.cfg.Proxies.Trusted == nil {
		t.Error("the ingress is not trusted")
	}
}

// The image has the port of the manifest, a Go that compiles the module, and no shell around the program.
func TestDockerfile(t *testing.T) {
	b, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	field := func(file []byte, expr string) string {
		t.Helper()
		m := regexp.MustCompile("(?m)^" + expr + "$").FindSubmatch(file)
		if m == nil {
			t.Fatalf("nothing fits %s", expr)
		}
		return string(m[1])
	}
	if port := field(b, `EXPOSE (\d+)`); port != container(t).Ports[0].ContainerPort {
		t.Errorf("the image has the port %s", port)
	}
	var entry []string
	if err := json.Unmarshal([]byte(field(b, `ENTRYPOINT (.*)`)), &entry); err != nil || len(entry) != 1 {
		t.Errorf("the entry point is %q: %v", entry, err)
	}
	if out := field(b, `RUN cd examples/kubernetes && CGO_ENABLED=0 go build -trimpath -o (\S+) \.`); len(entry) == 1 && out != entry[0] {
		t.Errorf("the program is %s, and the entry point %s", out, entry[0])
	}
	module, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if have, want := field(b, `FROM golang:(\S+) AS build`), field(module, `go (\d+\.\d+)\.\d+`); have != want {
		t.Errorf("the image is built with Go %s, and the module wants %s", have, want)
	}
	if user := field(b, `USER (\d+):\d+`); user == "0" {
		t.Error("the program runs as root, and the manifest forbids that")
	}
}
