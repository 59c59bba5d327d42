package proxies

import (
	"bytes"
	"testing"

	"gopkg.in/yaml.v3"
)

// static is the part of Traefik's static configuration that the page uses.
type static struct {
	EntryPoints map[string]struct{ Address string } `yaml:"entryPoints"`
	Providers   struct{ File struct{ Filename string } }
}

// dynamic is the part of Traefik's dynamic configuration that the page uses.
type dynamic struct {
	HTTP struct {
		Routers map[string]struct {
			EntryPoints []string `yaml:"entryPoints"`
			Rule        string
			Middlewares []string
			Service     string
			TLS         *struct{ Options string }
		}
		Middlewares map[string]struct {
			RedirectScheme struct {
				Scheme    string
				Permanent bool
			} `yaml:"redirectScheme"`
		}
		Services map[string]struct {
			LoadBalancer struct{ Servers []struct{ URL string } } `yaml:"loadBalancer"`
		}
	}
	TLS struct {
		Certificates []struct {
			CertFile string `yaml:"certFile"`
			KeyFile  string `yaml:"keyFile"`
		}
		Options map[string]struct {
			MinVersion string `yaml:"minVersion"`
		}
	}
}

// The blocks for Traefik have the form that Traefik reads, and what they name exists. Traefik
// itself does not run here.
func TestTraefikForm(t *testing.T) {
	files := blocks(t, "yaml")
	if len(files) != 2 {
		t.Fatalf("%d blocks", len(files))
	}
	var s static
	var d dynamic
	for i, into := range []any{&s, &d} {
		dec := yaml.NewDecoder(bytes.NewReader([]byte(files[i])))
		dec.KnownFields(true)
		if err := dec.Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	if s.EntryPoints["web"].Address != ":80" || s.EntryPoints["websecure"].Address != ":443" || s.Providers.File.Filename == "" {
		t.Errorf("%+v", s)
	}
	for name, r := range d.HTTP.Routers {
		if _, ok := d.HTTP.Services[r.Service]; !ok {
			t.Errorf("%s: there is no service %q", name, r.Service)
		}
		for _, m := range r.Middlewares {
			if _, ok := d.HTTP.Middlewares[m]; !ok {
				t.Errorf("%s: there is no middleware %q", name, m)
			}
		}
		for _, e := range r.EntryPoints {
			if _, ok := s.EntryPoints[e]; !ok {
				t.Errorf("%s: there is no entry point %q", name, e)
			}
			if secure := e == "websecure"; secure != (r.TLS != nil) {
				t.Errorf("%s: TLS at %s: %t", name, e, r.TLS != nil)
			}
		}
		if r.TLS != nil && d.TLS.Options[r.TLS.Options].MinVersion != "VersionTLS12" {
			t.Errorf("%s: the options %q", name, r.TLS.Options)
		}
	}
	// The longer rule wins, so that a handshake is not redirected.
	if ws, pages := d.HTTP.Routers["ws-in-clear-text"], d.HTTP.Routers["pages-in-clear-text"]; len(ws.Rule) <= len(pages.Rule) || len(ws.Middlewares) > 0 {
		t.Errorf("%+v\n%+v", ws, pages)
	}
	if len(d.TLS.Certificates) != 1 || d.TLS.Certificates[0].CertFile == "" || d.TLS.Certificates[0].KeyFile == "" {
		t.Errorf("%+v", d.TLS)
	}
}
