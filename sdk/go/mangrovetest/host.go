// Package mangrovetest is a host for the tests of plugins: it lives in the test, without a process or a socket, and
// speaks to the plugin as a real host does.
//
//	host := mangrovetest.Start(t, plugin())
//	source, err := host.Source("ticker", mangrovetest.Use{Config: map[string]any{"interval": 1}})
//	event, err := source.Next()
//	value, err := host.Call("rule1", "shout", "hello")
package mangrovetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	mangrove "mangrove.invalid/sdk/go"
	"mangrove.invalid/sdk/go/internal/link"
	"mangrove.invalid/sdk/go/internal/sp"
)

const (
	limit   = 32 << 20
	timeout = 10 * time.Second // for everything that a plugin has to do
)

// Use says for whom a symbol is started.
type Use struct {
	Config     any    // of the symbol
	DataSource string // of a source
	Rule       string // "rule" when it is empty
	Offset     any    // where a source goes on
	NoAck      bool   // a sink does not acknowledge
}

// Log is a line that the plugin has logged.
type Log struct {
	Level   string         `json:"level"`
	Message string         `json:"message"`
	Fields  map[string]any `json:"fields"`
}

// Host runs one plugin. It may be used by many goroutines.
type Host struct {
	t       testing.TB
	cancel  context.CancelFunc
	ended   chan struct{}
	failure error // of Run, when ended is closed

	writing sync.Mutex
	control *sp.Conn

	mu        sync.Mutex
	lastID    uint64
	asked     map[uint64]chan message
	listening map[string]chan *sp.Conn
	functions map[string]*function
	scopes    map[uint64]string
	state     map[string]map[string]json.RawMessage
	acks      map[uint64]func(message)
	logs      []Log
	metrics   map[string]float64
}

// message is what a plugin may send on control.
type message struct {
	Log
	Type     string            `json:"type"`
	ID       *uint64           `json:"id"`
	Use      uint64            `json:"use"`
	Rule     string            `json:"rule"`
	Key      string            `json:"key"`
	Value    json.RawMessage   `json:"value"`
	By       float64           `json:"by"`
	Seq      uint64            `json:"seq"`
	Error    *string           `json:"error"`
	Errors   []json.RawMessage `json:"errors"`
	Name     string            `json:"name"`
	Kind     string            `json:"kind"`
	Versions []int             `json:"versions"`
}

// Start runs the plugin until the end of the test, which fails if the plugin does not end in order.
func Start(t testing.TB, plugin *mangrove.Plugin) *Host {
	t.Helper()
	h := &Host{
		t:         t,
		ended:     make(chan struct{}),
		asked:     map[uint64]chan message{},
		listening: map[string]chan *sp.Conn{},
		functions: map[string]*function{},
		scopes:    map[uint64]string{},
		state:     map[string]map[string]json.RawMessage{},
		acks:      map[uint64]func(message){},
		metrics:   map[string]float64{},
	}
	control := h.listen("control")
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	go func() {
		defer close(h.ended)
		h.failure = plugin.Run(link.With(ctx, link.Host{Control: "control", Plugin: "test", Dial: h.dial}))
	}()
	t.Cleanup(func() {
		if err := h.Stop(); err != nil {
			t.Errorf("the plugin ended with: %v", err)
		}
	})
	conn, err := h.accepted(control)
	if err == nil {
		h.control = conn
		err = h.welcome()
	}
	if err != nil {
		t.Fatalf("the plugin does not start: %v", err)
	}
	go h.read()
	return h
}

// Stop shuts the plugin down, as SIGTERM does, and returns the error that it ends with.
func (h *Host) Stop() error {
	h.cancel()
	select {
	case <-h.ended:
		return h.failure
	case <-time.After(timeout):
		return errors.New("it does not end")
	}
}

// Logs are the lines that have arrived so far.
func (h *Host) Logs() []Log {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Log(nil), h.logs...)
}

// Metric is the value of a counter or gauge, over all uses, as far as it has arrived. All of a use have when its Stop
// has returned.
func (h *Host) Metric(name string) float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.metrics[name]
}

// State decodes what a symbol has put under key for a rule, and tells whether there is anything.
func (h *Host) State(symbol, rule, key string, into any) (bool, error) {
	h.mu.Lock()
	value, ok := h.state[symbol+"\x00"+rule][key]
	h.mu.Unlock()
	if !ok {
		return false, nil
	}
	return true, json.Unmarshal(value, into)
}

func (h *Host) dial(ctx context.Context, address string, protocol sp.Protocol, limit uint64) (*sp.Conn, error) {
	h.mu.Lock()
	waiting := h.listening[address]
	delete(h.listening, address)
	h.mu.Unlock()
	if waiting == nil {
		return nil, fmt.Errorf("nobody listens on %s", address)
	}
	ours, theirs := net.Pipe()
	go func() {
		if conn, err := sp.Server(ctx, ours, false, protocol.Peer(), limit); err == nil {
			waiting <- conn
		}
	}()
	return sp.Client(ctx, theirs, false, protocol, limit)
}

func (h *Host) listen(address string) chan *sp.Conn {
	waiting := make(chan *sp.Conn, 1)
	h.mu.Lock()
	h.listening[address] = waiting
	h.mu.Unlock()
	return waiting
}

func (h *Host) accepted(waiting chan *sp.Conn) (*sp.Conn, error) {
	select {
	case conn := <-waiting:
		return conn, nil
	case <-h.ended:
		return nil, fmt.Errorf("the plugin has ended: %w", h.failure)
	case <-time.After(timeout):
		return nil, errors.New("the plugin does not connect")
	}
}

func (h *Host) welcome() error {
	encoded, err := h.control.Read()
	if err != nil {
		return err
	}
	var hello message
	if err := json.Unmarshal(encoded, &hello); err != nil || hello.Type != "hello" {
		return fmt.Errorf("expected hello, not %s", encoded)
	}
	return h.send(map[string]any{"type": "welcome", "version": 1, "host": "mangrovetest", "instance": 0, "encoding": "json",
		"limits": map[string]int{"message": limit, "batch": 1024}, "pingInterval": 3_600_000})
}

func (h *Host) send(message any) error {
	encoded, err := json.Marshal(message)
	if err != nil {
		return err
	}
	h.writing.Lock()
	defer h.writing.Unlock()
	return h.control.Write(encoded)
}

// ask sends a request and waits for its answer.
func (h *Host) ask(request map[string]any) (json.RawMessage, error) {
	reply := make(chan message, 1)
	h.mu.Lock()
	h.lastID++
	id := h.lastID
	h.asked[id] = reply
	h.mu.Unlock()
	request["id"] = id
	if err := h.send(request); err != nil {
		return nil, err
	}
	select {
	case answer := <-reply:
		if answer.Error != nil {
			return nil, errors.New(*answer.Error)
		}
		return answer.Value, nil
	case <-h.ended:
		return nil, errors.New("the plugin has ended")
	case <-time.After(timeout):
		return nil, fmt.Errorf("no answer to %v", request["type"])
	}
}

func (h *Host) read() {
	for {
		encoded, err := h.control.Read()
		if err != nil {
			return
		}
		var message message
		if err := json.Unmarshal(encoded, &message); err != nil {
			h.t.Errorf("the plugin sent %.200q: %v", encoded, err)
			continue
		}
		h.handle(message)
	}
}

func (h *Host) handle(m message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch m.Type {
	case "answer":
		if reply := h.asked[*m.ID]; reply != nil {
			delete(h.asked, *m.ID)
			reply <- m
		}
	case "log":
		h.logs = append(h.logs, m.Log)
	case "metric":
		var value float64
		_ = json.Unmarshal(m.Value, &value)
		if m.Kind == "counter" {
			value += h.metrics[m.Name]
		}
		h.metrics[m.Name] = value
	case "ack", "error":
		if notify := h.acks[m.Use]; notify != nil {
			notify(m)
		}
	case "ping", "get", "put", "delete", "add":
		value, err := h.keep(m)
		answer := map[string]any{"type": "answer", "id": *m.ID, "value": value}
		if err != nil {
			answer["error"] = err.Error()
		}
		go func() { _ = h.send(answer) }()
	}
}

// keep is the host's side of state; h.mu is held.
func (h *Host) keep(m message) (json.RawMessage, error) {
	if m.Type == "ping" {
		return nil, nil
	}
	if len(m.Key) < 1 || len(m.Key) > 256 {
		return nil, fmt.Errorf("a key of %d bytes, expected 1 to 256", len(m.Key))
	}
	scope := h.scopes[m.Use] + m.Rule
	values := h.state[scope]
	if values == nil {
		values = map[string]json.RawMessage{}
		h.state[scope] = values
	}
	switch m.Type {
	case "put":
		if len(m.Value) > 1<<20 {
			return nil, fmt.Errorf("a value of %d bytes, expected at most 1 MiB", len(m.Value))
		}
		values[m.Key] = m.Value
		return nil, nil
	case "delete":
		delete(values, m.Key)
		return nil, nil
	case "add":
		sum := 0.0
		if old, ok := values[m.Key]; ok {
			if err := json.Unmarshal(old, &sum); err != nil {
				return nil, fmt.Errorf("%q is not a number", m.Key)
			}
		}
		values[m.Key], _ = json.Marshal(sum + m.By)
	}
	return values[m.Key], nil
}

// start opens a use and its data channel.
func (h *Host) start(kind, symbol string, use Use) (uint64, *sp.Conn, error) {
	h.mu.Lock()
	h.lastID++
	id := h.lastID
	h.mu.Unlock()
	if use.Rule == "" && kind != "function" {
		use.Rule = "rule"
	}
	if use.Config == nil {
		use.Config = map[string]any{}
	}
	address := fmt.Sprintf("use-%d", id)
	h.mu.Lock()
	h.scopes[id] = symbol + "\x00" + use.Rule
	h.mu.Unlock()
	data := h.listen(address)
	request := map[string]any{"type": "start", "use": id, "kind": kind, "symbol": symbol, "address": address}
	if kind != "function" {
		request["ruleId"], request["opId"], request["instanceId"] = use.Rule, "op", 0
		request["config"] = use.Config
	}
	if kind == "source" {
		request["dataSource"] = use.DataSource
		if use.Offset != nil {
			request["offset"] = use.Offset
		}
	}
	if kind == "sink" {
		request["ack"] = !use.NoAck
	}
	if _, err := h.ask(request); err != nil {
		return 0, nil, err
	}
	conn, err := h.accepted(data)
	return id, conn, err
}

func (h *Host) stop(use uint64, seq any) (json.RawMessage, error) {
	request := map[string]any{"type": "stop", "use": use, "timeout": timeout.Milliseconds()}
	if seq != nil {
		request["seq"] = seq
	}
	return h.ask(request)
}
