package mangrove

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Use is one use of a symbol: which rule it is for, and what the host keeps and shows for it.
type Use struct {
	Symbol     string
	RuleID     string
	OpID       string
	InstanceID int
	DataSource string // what a stream reads from; empty for sinks

	id      uint64
	offset  json.RawMessage
	session *session
	logger  *slog.Logger
	metrics metrics
}

func newUse(s *session, start *startRequest) *Use {
	u := &Use{
		Symbol:     start.Symbol,
		RuleID:     start.RuleID,
		OpID:       start.OpID,
		InstanceID: start.InstanceID,
		DataSource: start.DataSource,
		id:         *start.Use,
		offset:     start.Offset,
		session:    s,
	}
	u.logger = slog.New(&handler{session: s, use: u.id, level: s.plugin.LogLevel})
	u.metrics = metrics{session: s, use: u.id, values: map[string]*metric{}}
	return u
}

// Offset decodes the offset behind which a source has to go on, and tells whether there is one.
func (u *Use) Offset(into any) (bool, error) {
	if isNull(u.offset) {
		return false, nil
	}
	return true, json.Unmarshal(u.offset, into)
}

// Logger writes to the host's log, where each line names the rule and the symbol. Lines are dropped while the host
// doesn't keep up.
func (u *Use) Logger() *slog.Logger { return u.logger }

// State is kept by the host for this symbol and rule.
func (u *Use) State() State { return State{session: u.session, use: u.id} }

// Counter is a number that grows, shown by the host under this name.
func (u *Use) Counter(name string) Counter { return Counter{&u.metrics, name} }

// Gauge is a number that goes up and down, shown by the host under this name.
func (u *Use) Gauge(name string) Gauge { return Gauge{&u.metrics, name} }

// State keeps values per symbol and rule. It outlives the plugin's process. Keys have 1 to 256 bytes, values at most
// 1 MiB of JSON; there are at most 10,000 keys. All methods wait for the host, up to 5 seconds.
type State struct {
	session  *session
	use      uint64
	rule     string // only of a function, whose use doesn't tell
	ruleless bool   // of a call that came without a rule
}

type stateRequest struct {
	Type  string          `json:"type"`
	ID    uint64          `json:"id"`
	Use   uint64          `json:"use"`
	Rule  string          `json:"rule,omitempty"`
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value,omitempty"`
	By    *float64        `json:"by,omitempty"`
}

func (s State) ask(ctx context.Context, request stateRequest) (json.RawMessage, error) {
	if s.ruleless {
		return nil, errors.New("a call without a rule has no state")
	}
	request.Use, request.Rule = s.use, s.rule
	value, err := s.session.ask(ctx, func(id uint64) any { request.ID = id; return request })
	if err != nil {
		return nil, fmt.Errorf("%s state %q: %w", request.Type, request.Key, err)
	}
	return value, nil
}

// Get decodes the value of key, and tells whether there is one.
func (s State) Get(ctx context.Context, key string, into any) (bool, error) {
	value, err := s.ask(ctx, stateRequest{Type: "get", Key: key})
	if err != nil || isNull(value) {
		return false, err
	}
	return true, json.Unmarshal(value, into)
}

// Put sets the value of key to anything that JSON can hold.
func (s State) Put(ctx context.Context, key string, value any) error {
	encoded, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = s.ask(ctx, stateRequest{Type: "put", Key: key, Value: encoded})
	return err
}

// Delete removes key, which need not be there.
func (s State) Delete(ctx context.Context, key string) error {
	_, err := s.ask(ctx, stateRequest{Type: "delete", Key: key})
	return err
}

// Add adds by to the number under key, 0 if it is missing, and returns the new one.
func (s State) Add(ctx context.Context, key string, by float64) (float64, error) {
	value, err := s.ask(ctx, stateRequest{Type: "add", Key: key, By: &by})
	if err != nil {
		return 0, err
	}
	var sum float64
	return sum, json.Unmarshal(value, &sum)
}

// Counter is a number that grows.
type Counter struct {
	metrics *metrics
	name    string
}

// Add adds to the counter. The host hears of it within a tenth of a second.
func (c Counter) Add(by float64) { c.metrics.change(c.name, "counter", by) }

// Gauge is a number that goes up and down.
type Gauge struct {
	metrics *metrics
	name    string
}

// Set replaces the number. The host hears of it within a tenth of a second.
func (g Gauge) Set(value float64) { g.metrics.change(g.name, "gauge", value) }

const metricsInterval = 100 * time.Millisecond

type metrics struct {
	session *session
	use     uint64
	mu      sync.Mutex
	values  map[string]*metric
	waiting bool // for the timer to flush
}

type metric struct {
	Type  string  `json:"type"`
	Use   uint64  `json:"use"`
	Name  string  `json:"name"`
	Kind  string  `json:"kind"`
	Value float64 `json:"value"`
}

func (m *metrics) change(name, kind string, value float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	entry := m.values[kind+name]
	if entry == nil {
		entry = &metric{"metric", m.use, name, kind, 0}
		m.values[kind+name] = entry
	}
	if kind == "counter" {
		value += entry.Value
	}
	entry.Value = value
	if !m.waiting {
		m.waiting = true
		time.AfterFunc(metricsInterval, m.flush)
	}
}

// flush sends what has changed since the last time.
func (m *metrics) flush() {
	m.mu.Lock()
	changed := m.values
	m.values, m.waiting = map[string]*metric{}, false
	m.mu.Unlock()
	for _, entry := range changed {
		m.session.send(entry)
	}
}
