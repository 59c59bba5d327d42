package browser

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"time"
)

// Tab opens url in another tab of the browser that p is a tab of, with the same cookies.
func (p *Page) Tab(url string) *Page {
	p.b.t.Helper()
	return p.b.open(p.context, url)
}

// View sets the size of the page in CSS pixels, and whether the user prefers dark colours.
func (p *Page) View(width, height int, dark bool) {
	p.b.t.Helper()
	p.b.call(p.session, "Emulation.setDeviceMetricsOverride",
		obj{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	p.b.call(p.session, "Emulation.setEmulatedMedia",
		obj{"features": []obj{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// History returns the addresses of the pages that the tab has been at.
func (p *Page) History() (urls []string) {
	p.b.t.Helper()
	var r struct{ Entries []struct{ URL string } }
	p.b.call(p.session, "Page.getNavigationHistory", obj{}, &r)
	for _, e := range r.Entries {
		urls = append(urls, e.URL)
	}
	return urls
}

// Front shows the tab, and hides the other tabs of its window.
func (p *Page) Front() {
	p.b.t.Helper()
	p.b.call(p.session, "Page.bringToFront", obj{}, nil)
}

// Key presses Enter, or types other text, wherever the focus is.
func (p *Page) Key(text string) {
	p.b.t.Helper()
	if text != "Enter" {
		p.b.call(p.session, "Input.insertText", obj{"text": text}, nil)
		return
	}
	for _, typ := range []string{"keyDown", "keyUp"} {
		p.b.call(p.session, "Input.dispatchKeyEvent",
			obj{"type": typ, "key": text, "code": text, "text": "\r", "windowsVirtualKeyCode": 13}, nil)
	}
}

// Screenshot writes a picture of what is visible of the page to a PNG file.
func (p *Page) Screenshot(path string) {
	p.b.t.Helper()
	var r struct{ Data string }
	p.b.call(p.session, "Page.captureScreenshot", obj{"format": "png"}, &r)
	png, err := base64.StdEncoding.DecodeString(r.Data)
	if err == nil {
		err = os.WriteFile(path, png, 0o644)
	}
	if err != nil {
		p.b.t.Fatal(err)
	}
}

// NoRed fails the test if the console of a developer would show a red line for any page: an
// error, a request that has failed, or an answer of 400 and above. An issue of the
// security policy counts as well.
func (b *Browser) NoRed() {
	b.t.Helper()
	time.Sleep(200 * time.Millisecond) // the browser reports a failure after the page knows of it
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.red {
		b.t.Errorf("in the browser: %.600s", e)
	}
}

// red reports whether an event of the DevTools protocol is a red line of the console.
func red(m cdp) bool {
	var p struct {
		Type     string
		Entry    struct{ Level, Source string }
		Response struct{ Status int }
	}
	if data, err := json.Marshal(m.Params); err != nil || json.Unmarshal(data, &p) != nil {
		return false
	}
	switch m.Method {
	case "Runtime.exceptionThrown", "Network.loadingFailed", "Network.webSocketFrameError":
		return true
	case "Runtime.consoleAPICalled":
		return p.Type == "error" || p.Type == "assert"
	case "Log.entryAdded":
		return p.Entry.Level == "error" || p.Entry.Source == "security"
	case "Network.responseReceived":
		return p.Response.Status >= 400
	}
	return false
}
