package mangrove

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"mangrove.invalid/sdk/go/internal/link"
	"mangrove.invalid/sdk/go/internal/sp"
)

// Sink takes results out. Results come one after the other; when Collect returns nil the result is safe, and the host
// is told so. ctx ends when there is no time left to finish. A sink that is an [io.Closer] is closed at its end.
type Sink interface {
	Collect(ctx context.Context, result Result) error
}

// Result is what a sink is handed for one result of a rule, as JSON: an array of rows, or one object when the rule's
// action says sendSingle. It is the sink's to keep.
type Result json.RawMessage

// Decode decodes the result as it is.
func (r Result) Decode(into any) error { return json.Unmarshal(r, into) }

// MarshalJSON gives the result as it is.
func (r Result) MarshalJSON() ([]byte, error) { return json.RawMessage(r).MarshalJSON() }

// Rows decodes the rows of a result; one object is one row.
func Rows[T any](result Result) ([]T, error) {
	if len(result) > 0 && result[0] == '{' {
		rows := make([]T, 1)
		return rows, result.Decode(&rows[0])
	}
	var rows []T
	return rows, result.Decode(&rows)
}

func closeSink(sink Sink) error {
	if closer, ok := sink.(io.Closer); ok {
		return guard(closer.Close)
	}
	return nil
}

// idle is how long a sink that has to end, but was not told with which batch, waits for another one.
const idle = 50 * time.Millisecond

// ack says up to where results are safe. While it waits in the queue of the control connection it takes in what
// becomes safe meanwhile; errors close it, because they belong to its last batch.
type ack struct {
	run    *sinkRun
	seq    uint64
	errors []failure
}

type failure struct {
	index int
	text  string
}

func (f failure) MarshalJSON() ([]byte, error) { return json.Marshal([]any{f.index, f.text}) }

// take is the message, at the time of writing it.
func (a *ack) take() any {
	a.run.mu.Lock()
	defer a.run.mu.Unlock()
	if a.run.ack == a {
		a.run.ack = nil
	}
	return struct {
		Type   string    `json:"type"`
		Use    uint64    `json:"use"`
		Seq    uint64    `json:"seq"`
		Errors []failure `json:"errors,omitempty"`
	}{"ack", a.run.use.id, a.seq, a.errors}
}

// sinkRun is a sink at work: one goroutine reads and collects.
type sinkRun struct {
	ctx     context.Context // the sink's
	cancel  context.CancelFunc
	use     *Use
	sink    Sink
	channel *link.Channel
	acks    bool
	ended   chan struct{}
	closing error // of the sink's Close, when ended is closed

	mu     sync.Mutex
	conn   *sp.Conn
	last   uint64 // the batch that was collected last
	target *uint64
	drain  bool // to the last batch that has been sent, without knowing which
	lost   bool // conn is broken, and there is no other yet
	ack    *ack // waits in the queue and may still grow
}

func newSinkRun(use *Use, sink Sink, channel *link.Channel, acks bool) *sinkRun {
	r := &sinkRun{use: use, sink: sink, channel: channel, acks: acks, ended: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(use.session.ctx)
	return r
}

func (r *sinkRun) run() {
	go func() {
		defer close(r.ended)
		defer func() { r.closing = closeSink(r.sink) }()
		defer r.channel.Close()
		for {
			message, ok := r.read()
			if !ok {
				return
			}
			r.collect(message)
		}
	}()
}

// read waits for the next message; not ok when there is none to come.
func (r *sinkRun) read() (message []byte, ok bool) {
	var broken *sp.Conn
	for {
		conn, err := r.channel.Conn(broken)
		if err != nil || r.finished(conn) {
			return nil, false
		}
		if message, err = conn.Read(); err == nil {
			return message, true
		}
		if sp.IsTimeout(err) {
			if r.finished(conn) || r.draining() {
				return nil, false
			}
			conn.SetReadDeadline(time.Time{})
			continue
		}
		if errors.Is(err, sp.ErrLimit) {
			r.use.session.report(r.use.id, err)
		}
		broken = conn
		if r.lose() {
			return nil, false
		}
	}
}

// lose notes that the connection is broken, and tells whether no other is needed: in a drain, what a host would send
// over a new one was not on its way when the end was asked for.
func (r *sinkRun) lose() (over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = true
	return r.drain || r.target != nil && r.last >= *r.target
}

// finished tells whether the batch that has to be the last one was collected.
func (r *sinkRun) finished(conn *sp.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn, r.lost = conn, false
	if r.drain {
		conn.SetReadDeadline(time.Now().Add(idle))
	}
	return r.target != nil && r.last >= *r.target
}

func (r *sinkRun) draining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drain
}

func (r *sinkRun) collect(message []byte) {
	var data sinkData
	err := json.Unmarshal(message, &data)
	var results []json.RawMessage
	if err == nil {
		results, err = elements(data.Results)
	}
	switch {
	case err == nil && data.Seq == nil:
		err = errors.New("no seq")
	case err == nil && len(results) > r.use.session.limits.Batch:
		err = fmt.Errorf("%d results, expected at most %d", len(results), r.use.session.limits.Batch)
	case err == nil && *data.Seq <= r.last:
		err = fmt.Errorf("seq %d, expected %d", *data.Seq, r.last+1)
	case err == nil && *data.Seq != r.last+1:
		// What is missing is lost, which is no reason to lose this one too.
		r.use.session.report(r.use.id, fmt.Errorf("sink data: seq %d, expected %d", *data.Seq, r.last+1))
	}
	if err != nil {
		r.use.session.report(r.use.id, fmt.Errorf("sink data %s: %w", excerpt(message), err))
		return
	}
	var failed []failure
	for index, result := range results {
		err := guard(func() error { return r.sink.Collect(r.ctx, Result(result)) })
		if err == nil {
			continue
		}
		if r.ctx.Err() != nil {
			return
		}
		if r.acks {
			failed = append(failed, failure{index, errorText(err)})
		} else {
			r.use.session.report(r.use.id, err)
		}
	}
	r.collected(*data.Seq, failed)
}

func (r *sinkRun) collected(seq uint64, failed []failure) {
	r.mu.Lock()
	r.last = seq
	waiting := r.ack != nil
	pending := r.ack
	if r.acks {
		if !waiting {
			pending = &ack{run: r}
			r.ack = pending
		}
		pending.seq, pending.errors = seq, failed
		if failed != nil {
			r.ack = nil
		}
	}
	r.mu.Unlock()
	if r.acks && !waiting {
		r.use.session.send(pending)
	}
}

func (r *sinkRun) stop(ctx context.Context, seq *uint64) (any, error) {
	r.mu.Lock()
	r.target, r.drain = seq, seq == nil
	switch {
	case !r.drain && r.last < *r.target: // more has to come
	case r.lost:
		r.channel.Close() // ends the wait for another connection
	case r.conn != nil:
		deadline := time.Now()
		if r.drain {
			deadline = deadline.Add(idle)
		}
		r.conn.SetReadDeadline(deadline)
	}
	r.mu.Unlock()
	var err error
	select {
	case <-r.ended:
		err = r.closing
	case <-ctx.Done():
		err = errors.New("the sink has not collected everything")
	}
	r.cancel()
	r.channel.Close()
	r.use.metrics.flush()
	return nil, err
}

func (r *sinkRun) done() <-chan struct{} { return r.ended }
