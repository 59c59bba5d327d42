package wstest_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/wstest"
)

// The examples of RFC 6455, section 5.7, and what only a hostile peer sends.
func TestAppendFrame(t *testing.T) {
	huge := uint64(1) << 63
	small := uint64(3)
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	for _, tc := range []struct {
		name string
		f    wstest.Frame
		want string // hex
	}{
		{"RFC unmasked text", wstest.Frame{Fin: true, Opcode: 1, Payload: []byte("Hello")}, "810548656c6c6f"},
		{"RFC masked text", wstest.Text("Hello"), "818537fa213d7f9f4d5158"},
		{"RFC fragment", wstest.Frame{Opcode: 1, Payload: []byte("Hel")}, "010348656c"},
		{"RFC continuation", wstest.Frame{Fin: true, Payload: []byte("lo")}, "80026c6f"},
		{"RFC ping", wstest.Frame{Fin: true, Opcode: 9, Payload: []byte("Hello")}, "890548656c6c6f"},
		{"RFC pong", wstest.Pong([]byte("Hello")), "8a8537fa213d7f9f4d5158"},
		{"RFC 256", wstest.Frame{Fin: true, Opcode: 2, Payload: make([]byte, 256)}, "827e0100" + strings.Repeat("00", 256)},
		{"RFC 64 KiB", wstest.Frame{Fin: true, Opcode: 2, Payload: make([]byte, 65536)}, "827f0000000000010000" + strings.Repeat("00", 65536)},
		{"125", wstest.Frame{Payload: make([]byte, 125)}, "007d" + strings.Repeat("00", 125)},
		{"126", wstest.Frame{Payload: make([]byte, 126)}, "007e007e" + strings.Repeat("00", 126)},
		{"65535", wstest.Frame{Payload: make([]byte, 65535)}, "007effff" + strings.Repeat("00", 65535)},
		{"empty binary", wstest.Binary(nil), "828037fa213d"},
		{"ping", wstest.Ping(nil), "898037fa213d"},
		{"close", wstest.CloseFrame(1000, "Hel"), "888537fa213d" + "34126958" + "5b"},
		{"close without status", wstest.CloseFrame(1005, ""), "888037fa213d"},
		{"not minimal, 2", wstest.Frame{Payload: []byte{7}, LengthBytes: 2}, "007e000107"},
		{"not minimal, 8", wstest.Frame{Payload: []byte{7}, LengthBytes: 8}, "007f000000000000000107"},
		{"declares more", wstest.Frame{Length: &huge, Payload: []byte{7}, Masked: true, Mask: mask}, "00ff8000000000000000" + "37fa213d" + "30"},
		{"declares less", wstest.Frame{Length: &small, Payload: make([]byte, 200)}, "0003" + strings.Repeat("00", 200)},
		{"reserved", wstest.Frame{Fin: true, RSV: 7, Opcode: 15}, "ff00"},
		{"RSV1", wstest.Frame{RSV: 4, Opcode: 1}, "4100"},
		{"mask only with Masked", wstest.Frame{Mask: mask, Payload: []byte{1}}, "000101"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want, err := hex.DecodeString(tc.want)
			if err != nil {
				t.Fatal(err)
			}
			payload := bytes.Clone(tc.f.Payload)
			got := wstest.AppendFrame([]byte("prefix"), tc.f)
			if !bytes.Equal(got, append([]byte("prefix"), want...)) {
				t.Errorf("got %.60x, want %.60x", got[6:], want)
			}
			if !bytes.Equal(tc.f.Payload, payload) {
				t.Error("the payload was masked in place")
			}
		})
	}
}

func TestAppendFramePanics(t *testing.T) {
	for name, build := range map[string]func(){
		"RSV":           func() { wstest.AppendFrame(nil, wstest.Frame{RSV: 8}) },
		"opcode":        func() { wstest.AppendFrame(nil, wstest.Frame{Opcode: 16}) },
		"form":          func() { wstest.AppendFrame(nil, wstest.Frame{LengthBytes: 1}) },
		"too long":      func() { wstest.AppendFrame(nil, wstest.Frame{LengthBytes: 2, Payload: make([]byte, 65536)}) },
		"close code":    func() { wstest.CloseFrame(65536, "") },
		"lonely reason": func() { wstest.CloseFrame(1005, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			build()
		})
	}
}
