package wsguardprom_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardprom"
)

func ExampleNew() {
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{"https://app.example.com"},
		Auth:    wsguard.AuthConfig{InsecureAnonymous: true},
	})
	if err != nil {
		log.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(wsguardprom.New(guard, wsguardprom.Options{Name: "chat"}))

	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	// Prometheus does this.
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "wsguard_connections_limit") {
			fmt.Print(line)
		}
	}
	// Output:
	// wsguard_connections_limit{guard="chat",scope="total"} 10000
	// wsguard_connections_limit{guard="chat",scope="unauthenticated"} 1000
}
