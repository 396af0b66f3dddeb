package mangrovetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"mangrove.invalid/sdk/go/internal/sp"
)

// Event is what a source has sent: a tuple, or an error that it survived.
type Event struct {
	Tuple  json.RawMessage
	Meta   json.RawMessage // nil without
	Offset json.RawMessage // of the last tuple of a batch; nil without
	Err    error
}

// Decode decodes the tuple.
func (e Event) Decode(into any) error {
	if e.Err != nil {
		return e.Err
	}
	return json.Unmarshal(e.Tuple, into)
}

// Source is a source at work.
type Source struct {
	host   *Host
	use    uint64
	conn   *sp.Conn
	events chan Event
	last   chan uint64 // the seq of the last batch, when there are no more
	end    error
}

// Source starts a source. Its error is what opening it has given.
func (h *Host) Source(symbol string, use Use) (*Source, error) {
	id, conn, err := h.start("source", symbol, use)
	if err != nil {
		return nil, err
	}
	s := &Source{host: h, use: id, conn: conn, events: make(chan Event, 1), last: make(chan uint64, 1)}
	go s.read()
	return s, nil
}

func (s *Source) read() {
	var seq uint64
	defer func() {
		close(s.events)
		s.last <- seq
	}()
	for {
		encoded, err := s.conn.Read()
		if err != nil {
			return
		}
		var batch struct {
			Seq    uint64            `json:"seq"`
			Tuples []json.RawMessage `json:"tuples"`
			Meta   []json.RawMessage `json:"meta"`
			Offset json.RawMessage   `json:"offset"`
			Error  *string           `json:"error"`
			End    bool              `json:"end"`
		}
		if err := json.Unmarshal(encoded, &batch); err != nil || batch.Seq != seq+1 {
			s.host.t.Errorf("expected batch %d, the source sent %.200q (%v)", seq+1, encoded, err)
			return
		}
		seq = batch.Seq
		for index, tuple := range batch.Tuples {
			event := Event{Tuple: tuple}
			if index < len(batch.Meta) && string(batch.Meta[index]) != "null" {
				event.Meta = batch.Meta[index]
			}
			if index == len(batch.Tuples)-1 {
				event.Offset = batch.Offset
			}
			s.events <- event
		}
		switch {
		case batch.End:
			s.end = io.EOF
			if batch.Error != nil {
				s.end = errors.New(*batch.Error)
			}
		case batch.Error != nil:
			s.events <- Event{Err: errors.New(*batch.Error)}
		}
		if batch.End {
			return
		}
	}
}

// Next waits for what the source sends next. Its error is [io.EOF] when the source has ended by itself, or else the
// reason why it has ended.
func (s *Source) Next() (Event, error) {
	select {
	case event, ok := <-s.events:
		if ok {
			return event, nil
		}
		if s.end == nil {
			return event, errors.New("the source was stopped")
		}
		return event, s.end
	case <-time.After(timeout):
		return Event{}, errors.New("the source sends nothing")
	}
}

// Commit tells the source that everything up to this batch is safe.
func (s *Source) Commit(seq uint64) error {
	return s.host.send(map[string]any{"type": "commit", "use": s.use, "seq": seq})
}

// Stop ends the source and returns what it has sent since the last [Source.Next].
func (s *Source) Stop() ([]Event, error) {
	var rest []Event
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for event := range s.events {
			rest = append(rest, event)
		}
	}()
	value, err := s.host.stop(s.use, nil)
	if err != nil {
		return nil, err
	}
	<-drained
	var stopped struct {
		Seq uint64 `json:"seq"`
	}
	if err := json.Unmarshal(value, &stopped); err != nil {
		return rest, err
	}
	if last := <-s.last; last != stopped.Seq {
		return rest, fmt.Errorf("the source says that batch %d was its last, it was %d", stopped.Seq, last)
	}
	return rest, nil
}

// Sink is a sink at work.
type Sink struct {
	host   *Host
	use    uint64
	conn   *sp.Conn
	ack    bool
	seq    uint64
	mu     sync.Mutex
	notes  []message
	signal chan struct{}
}

// Sink starts a sink. Its error is what opening it has given.
func (h *Host) Sink(symbol string, use Use) (*Sink, error) {
	id, conn, err := h.start("sink", symbol, use)
	if err != nil {
		return nil, err
	}
	s := &Sink{host: h, use: id, conn: conn, ack: !use.NoAck, signal: make(chan struct{}, 1)}
	h.mu.Lock()
	h.acks[id] = func(m message) {
		s.mu.Lock()
		s.notes = append(s.notes, m)
		s.mu.Unlock()
		select {
		case s.signal <- struct{}{}:
		default:
		}
	}
	h.mu.Unlock()
	return s, nil
}

// Collect hands results over, as one batch, and waits until the sink has acknowledged them. Its error names those that
// failed. A sink that does not acknowledge is not waited for. It is for one goroutine at a time.
func (s *Sink) Collect(results ...any) error {
	s.seq++
	encoded, err := json.Marshal(map[string]any{"seq": s.seq, "results": results})
	if err != nil {
		return err
	}
	if err := s.conn.Write(encoded); err != nil || !s.ack {
		return err
	}
	late := time.After(timeout)
	for {
		if err, ok := s.acked(); ok {
			return err
		}
		select {
		case <-s.signal:
		case <-late:
			return errors.New("the sink does not acknowledge")
		}
	}
}

func (s *Sink) acked() (error, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, note := range s.notes {
		if note.Type != "ack" || note.Seq != s.seq {
			continue
		}
		var failed []error
		for _, encoded := range note.Errors {
			var index int
			var text string
			if err := json.Unmarshal(encoded, &[]any{&index, &text}); err != nil {
				return err, true
			}
			failed = append(failed, fmt.Errorf("result %d: %s", index, text))
		}
		return errors.Join(failed...), true
	}
	return nil, false
}

// Stop ends the sink when it has collected everything, and returns the errors that it has survived.
func (s *Sink) Stop() ([]error, error) {
	_, err := s.host.stop(s.use, s.seq)
	s.mu.Lock()
	defer s.mu.Unlock()
	var survived []error
	for _, note := range s.notes {
		if note.Type == "error" {
			survived = append(survived, errors.New(*note.Error))
		}
	}
	return survived, err
}

type function struct {
	conn    *sp.Conn
	opened  chan struct{}
	failure error
	writing sync.Mutex
	mu      sync.Mutex
	waiting map[uint64]chan outcome
}

type outcome struct {
	value json.RawMessage
	err   error
}

// Call calls a function in a rule, which is started by its first call.
func (h *Host) Call(rule, symbol string, args ...any) (json.RawMessage, error) {
	h.mu.Lock()
	f := h.functions[symbol]
	first := f == nil
	if first {
		f = &function{opened: make(chan struct{}), waiting: map[uint64]chan outcome{}}
		h.functions[symbol] = f
	}
	h.lastID++
	id := h.lastID
	h.mu.Unlock()
	if first {
		_, f.conn, f.failure = h.start("function", symbol, Use{})
		close(f.opened)
		if f.failure == nil {
			go f.read()
		}
	}
	<-f.opened
	if f.failure != nil {
		return nil, f.failure
	}
	if args == nil {
		args = []any{}
	}
	encoded, err := json.Marshal(map[string]any{
		"context": map[string]any{"ruleId": rule, "opId": "op", "instanceId": 0, "funcId": 0},
		"timeout": timeout.Milliseconds(), "calls": []any{[]any{id, args}},
	})
	if err != nil {
		return nil, err
	}
	done := make(chan outcome, 1)
	f.mu.Lock()
	f.waiting[id] = done
	f.mu.Unlock()
	f.writing.Lock()
	err = f.conn.Write(encoded)
	f.writing.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case outcome := <-done:
		return outcome.value, outcome.err
	case <-time.After(timeout):
		return nil, errors.New("the function does not return")
	}
}

func (f *function) read() {
	for {
		encoded, err := f.conn.Read()
		if err != nil {
			return
		}
		var reply struct {
			Results [][2]json.RawMessage `json:"results"`
			Errors  [][2]json.RawMessage `json:"errors"`
		}
		_ = json.Unmarshal(encoded, &reply)
		for _, result := range reply.Results {
			f.finish(result[0], outcome{value: result[1]})
		}
		for _, result := range reply.Errors {
			var text string
			_ = json.Unmarshal(result[1], &text)
			f.finish(result[0], outcome{err: errors.New(text)})
		}
	}
}

func (f *function) finish(id json.RawMessage, with outcome) {
	var number uint64
	_ = json.Unmarshal(id, &number)
	f.mu.Lock()
	defer f.mu.Unlock()
	if done := f.waiting[number]; done != nil {
		delete(f.waiting, number)
		done <- with
	}
}

// Validate asks a function about its arguments, as the host does when a rule is made. Other arguments than literals
// are given as their SQL text.
func (h *Host) Validate(symbol string, args ...any) error {
	if args == nil {
		args = []any{}
	}
	_, err := h.ask(map[string]any{"type": "validate", "symbol": symbol, "args": args})
	return err
}
