package mangrove_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mangrove "mangrove.invalid/sdk/go"
	"mangrove.invalid/sdk/go/internal/link"
	"mangrove.invalid/sdk/go/internal/sp"
)

const (
	patience = 30 * time.Second // until a test that waits has failed
	limit    = 32 << 20
	batch    = 1024
)

// listener accepts the connections of one address.
type listener struct {
	t        testing.TB
	address  string
	listener net.Listener
	protocol sp.Protocol
}

func listen(t testing.TB, protocol sp.Protocol) *listener {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.ipc")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &listener{t, "ipc://" + path, l, protocol}
}

func (l *listener) accept() *sp.Conn {
	l.t.Helper()
	_ = l.listener.(*net.UnixListener).SetDeadline(time.Now().Add(patience))
	stream, err := l.listener.Accept()
	if err != nil {
		l.t.Fatal(err)
	}
	conn, err := sp.Server(context.Background(), stream, true, l.protocol, limit)
	if err != nil {
		l.t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	l.t.Cleanup(func() { conn.Close() })
	return conn
}

// script is a host over real sockets that says what the test tells it to.
type script struct {
	t       testing.TB
	listens *listener
	control *sp.Conn
	ended   chan error // has the error of the plugin's Run
	stop    context.CancelFunc
}

type object = map[string]any

// play runs the plugin and welcomes it.
func play(t testing.TB, plugin *mangrove.Plugin) *script {
	t.Helper()
	s := run(t, plugin)
	s.welcome()
	return s
}

func run(t testing.TB, plugin *mangrove.Plugin) *script {
	t.Helper()
	s := &script{t: t, listens: listen(t, sp.Pair), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	ctx = link.With(ctx, link.Host{
		Control: s.listens.address,
		Token:   "secret",
		Plugin:  "car",
		Dial: func(ctx context.Context, address string, protocol sp.Protocol, limit uint64) (*sp.Conn, error) {
			return sp.Dial(ctx, address, protocol, limit, nil)
		},
	})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.ended <- plugin.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-gone:
		case <-time.After(patience):
			t.Error("the plugin does not end")
		}
	})
	return s
}

// welcome accepts the plugin and returns its hello.
func (s *script) welcome() object {
	s.t.Helper()
	s.control = s.listens.accept()
	hello := s.next("hello")
	s.send(object{"type": "welcome", "version": 1, "host": "script", "instance": 0, "encoding": "json", "news": true,
		"limits": object{"message": limit, "batch": batch}, "pingInterval": 60000})
	return hello
}

func (s *script) send(message any) {
	s.t.Helper()
	write(s.t, s.control, message)
}

func (s *script) raw(message string) {
	s.t.Helper()
	if err := s.control.Write([]byte(message)); err != nil {
		s.t.Fatal(err)
	}
}

func write(t testing.TB, conn *sp.Conn, message any) {
	t.Helper()
	encoded, err := json.Marshal(message)
	if err == nil {
		err = conn.Write(encoded)
	}
	if err != nil {
		t.Error(err) // not Fatal: tests write in goroutines of their own
	}
}

func read(t testing.TB, conn *sp.Conn) object {
	t.Helper()
	encoded, err := conn.Read()
	if err != nil {
		t.Fatal(err)
	}
	var message object
	if err := json.Unmarshal(encoded, &message); err != nil {
		t.Fatalf("%q: %v", encoded, err)
	}
	return message
}

// next reads control messages until one of this type comes.
func (s *script) next(kind string) object {
	s.t.Helper()
	for {
		if message := read(s.t, s.control); message["type"] == kind {
			return message
		}
	}
}

// ask sends a request and returns the answer, whose id it checks.
func (s *script) ask(request object) object {
	s.t.Helper()
	s.send(request)
	answer := s.next("answer")
	if fmt.Sprint(answer["id"]) != fmt.Sprint(request["id"]) {
		s.t.Fatalf("%v is the answer to %v", answer, request)
	}
	return answer
}

// start opens use 4 and returns the connection of its data.
func (s *script) start(kind, symbol string, more object) *sp.Conn {
	s.t.Helper()
	return s.startUse(4, kind, symbol, more)
}

func (s *script) startUse(use int, kind, symbol string, more object) *sp.Conn {
	s.t.Helper()
	data := listen(s.t, map[string]sp.Protocol{"source": sp.Pull, "sink": sp.Push, "function": sp.Pair}[kind])
	request := object{"type": "start", "id": 100 + use, "use": use, "kind": kind, "symbol": symbol, "address": data.address,
		"ruleId": "rule1", "opId": "op", "instanceId": 0, "config": object{}}
	for key, value := range more {
		request[key] = value
	}
	s.send(request)
	conn := data.accept()
	if answer := s.next("answer"); answer["error"] != nil {
		s.t.Fatal(answer)
	}
	return conn
}

// finish shuts the plugin down and checks that it ends well.
func (s *script) finish() {
	s.t.Helper()
	s.send(object{"type": "shutdown", "timeout": 5000})
	select {
	case err := <-s.ended:
		if err != nil {
			s.t.Fatal(err)
		}
	case <-time.After(patience):
		s.t.Fatal("the plugin does not end")
	}
}

func contains(t testing.TB, message object, key, part string) {
	t.Helper()
	if text, _ := message[key].(string); !strings.Contains(text, part) {
		t.Fatalf("%v: expected %q in %s", message, part, key)
	}
}
