package mangrove

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"unicode/utf8"

	"mangrove.invalid/sdk/go/internal/link"
	"mangrove.invalid/sdk/go/internal/sp"
)

// Source brings data in. Run sends tuples until ctx ends, or until there are none any more: when it returns by itself
// the host is told so, with the error if there is one.
type Source interface {
	Run(ctx context.Context, out *Output) error
}

// Committer is a [Source] that hears which offset the host has made safe: it will never ask for what is up to there
// again. Commit must not wait; it may be called while Run runs.
type Committer interface {
	Commit(offset json.RawMessage)
}

// Tuple is what [Output.SendTuple] sends. Data is anything that becomes a JSON object; an encoded one is a
// [json.RawMessage]. Meta (a JSON object) and Offset may be nil.
type Tuple struct {
	Data   any
	Meta   any
	Offset any // lets the source go on behind this tuple, see [Use.Offset]
}

// Output takes the tuples of one source. Any number of goroutines may use it.
type Output struct {
	ctx       context.Context
	limits    limits
	committer Committer

	mu      sync.Mutex
	pending batch
	seq     uint64        // of the batch that was taken last
	taken   chan struct{} // closed when pending was taken
	ready   chan struct{} // has a token when there may be something to take
	closed  bool
	offsets []committed
}

type committed struct {
	seq    uint64
	offset json.RawMessage
}

// batch is what the next message holds: tuples, or one error or end.
type batch struct {
	tuples  []byte
	metas   []byte
	hasMeta bool
	count   int
	offset  json.RawMessage
	note    []byte // of an error or the end: the message behind its seq
}

const (
	batchBytes  = 256 << 10
	keptOffsets = 4096
	envelope    = 128 // more than what a message holds beside tuples, metas and offset
)

func newOutput(ctx context.Context, limits limits) *Output {
	return &Output{ctx: ctx, limits: limits, taken: make(chan struct{}), ready: make(chan struct{}, 1)}
}

// Send hands a tuple on; it waits while the host is slow. Its error is that of ctx, or says what is wrong with the
// tuple.
func (o *Output) Send(ctx context.Context, data any) error {
	return o.SendTuple(ctx, Tuple{Data: data})
}

// SendTuple is [Output.Send] with metadata and an offset.
func (o *Output) SendTuple(ctx context.Context, tuple Tuple) error {
	data, err := encode(tuple.Data)
	if err != nil {
		return fmt.Errorf("tuple: %w", err)
	}
	if data[0] != '{' {
		return fmt.Errorf("tuple: expected a JSON object, not %s", excerpt(data))
	}
	meta, offset := []byte(null), json.RawMessage(nil)
	if tuple.Meta != nil {
		if meta, err = encode(tuple.Meta); err != nil {
			return fmt.Errorf("meta: %w", err)
		}
	}
	if tuple.Offset != nil {
		if offset, err = encode(tuple.Offset); err != nil {
			return fmt.Errorf("offset: %w", err)
		}
	}
	size := len(data) + len(meta) + len(offset) + envelope
	if uint64(size) > o.limits.Message {
		return fmt.Errorf("%w: a tuple of %d bytes, at most %d are sent", sp.ErrLimit, size, o.limits.Message)
	}
	return o.put(ctx, func(pending *batch) bool {
		if pending.note != nil || pending.count >= o.limits.Batch {
			return false
		}
		if pending.count > 0 {
			bytes := len(pending.tuples) + len(pending.metas) + len(pending.offset) + size
			if bytes > batchBytes || uint64(bytes) > o.limits.Message {
				return false
			}
			pending.tuples = append(pending.tuples, ',')
			pending.metas = append(pending.metas, ',')
		}
		pending.tuples = append(pending.tuples, data...)
		pending.metas = append(pending.metas, meta...)
		pending.hasMeta = pending.hasMeta || tuple.Meta != nil
		pending.count++
		if offset != nil {
			pending.offset = offset
		}
		return true
	})
}

func encode(value any) ([]byte, error) {
	if raw, ok := value.(json.RawMessage); ok {
		raw = bytes.TrimSpace(raw)
		if !json.Valid(raw) || !utf8.Valid(raw) {
			return nil, fmt.Errorf("expected JSON, not %s", excerpt(raw))
		}
		return raw, nil
	}
	return json.Marshal(value)
}

// Report tells the host of an error that the source survives.
func (o *Output) Report(ctx context.Context, err error) error {
	text, _ := json.Marshal(errorText(err))
	return o.put(ctx, noteOf([]byte(`,"error":`), text))
}

func noteOf(parts ...[]byte) func(*batch) bool {
	return func(pending *batch) bool {
		if pending.count > 0 || pending.note != nil {
			return false
		}
		pending.note = append(bytes.Join(parts, nil), '}')
		return true
	}
}

// put adds to the pending batch as soon as add agrees.
func (o *Output) put(ctx context.Context, add func(*batch) bool) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		o.mu.Lock()
		if o.closed {
			o.mu.Unlock()
			return errStopped
		}
		if add(&o.pending) {
			o.mu.Unlock()
			select {
			case o.ready <- struct{}{}:
			default:
			}
			return nil
		}
		taken := o.taken
		o.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
		case <-o.ctx.Done():
			return context.Cause(o.ctx)
		}
	}
}

// close lets nothing more in.
func (o *Output) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// take waits for the next batch, puts an empty one in its place and returns its seq, or 0 when the output is closed
// and everything was taken.
func (o *Output) take(ctx context.Context, empty batch) (batch, uint64) {
	for {
		o.mu.Lock()
		if o.pending.count > 0 || o.pending.note != nil {
			full := o.pending
			o.pending = empty
			o.seq++
			seq := o.seq
			close(o.taken)
			o.taken = make(chan struct{})
			if full.offset != nil && o.committer != nil {
				if len(o.offsets) == keptOffsets {
					o.offsets = o.offsets[1:]
				}
				o.offsets = append(o.offsets, committed{seq, full.offset})
			}
			o.mu.Unlock()
			return full, seq
		}
		closed := o.closed
		o.mu.Unlock()
		if closed {
			return empty, 0
		}
		select {
		case <-o.ready:
		case <-ctx.Done():
			return empty, 0
		}
	}
}

// parts are what the message of a batch consists of.
func (b *batch) parts(seq uint64) [][]byte {
	head := strconv.AppendUint([]byte(`{"seq":`), seq, 10)
	if b.note != nil {
		return [][]byte{head, b.note}
	}
	parts := [][]byte{append(head, `,"tuples":[`...), b.tuples, []byte("]")}
	if b.hasMeta {
		parts = append(parts, []byte(`,"meta":[`), b.metas, []byte("]"))
	}
	if b.offset != nil {
		parts = append(parts, []byte(`,"offset":`), b.offset)
	}
	return append(parts, []byte("}"))
}

// recycle is an empty batch in this one's memory, unless that is unusually much.
func (b *batch) recycle() batch {
	if cap(b.tuples) > 2*batchBytes || cap(b.metas) > 2*batchBytes {
		return batch{}
	}
	return batch{tuples: b.tuples[:0], metas: b.metas[:0]}
}

// sourceRun is a source at work: one goroutine runs it, one writes what it sends.
type sourceRun struct {
	ctx     context.Context // the source's
	use     *Use
	source  Source
	channel *link.Channel
	out     *Output
	cancel  context.CancelFunc

	ended   chan struct{} // the source has returned
	written chan struct{} // the writer has
	last    uint64        // the seq of the last batch that was written, when written is closed
}

func newSourceRun(ctx context.Context, use *Use, source Source, channel *link.Channel) *sourceRun {
	r := &sourceRun{use: use, source: source, channel: channel, ended: make(chan struct{}), written: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(ctx)
	r.out = newOutput(use.session.ctx, use.session.limits)
	r.out.committer, _ = source.(Committer)
	return r
}

func (r *sourceRun) run() {
	go r.channel.Watch()
	go func() {
		defer close(r.written)
		var spare batch
		for {
			full, seq := r.out.take(r.use.session.ctx, spare)
			if seq == 0 || r.channel.Write(full.parts(seq)...) != nil {
				return
			}
			r.last = seq
			spare = full.recycle()
		}
	}()
	go func() {
		defer close(r.ended)
		defer r.out.close()
		err := guard(func() error { return r.source.Run(r.ctx, r.out) })
		if r.ctx.Err() != nil {
			return
		}
		end := [][]byte{[]byte(`,"end":true`)}
		if err != nil {
			text, _ := json.Marshal(errorText(err))
			end = append(end, []byte(`,"error":`), text)
		}
		_ = r.out.put(r.ctx, noteOf(end...))
	}()
}

func (r *sourceRun) stop(ctx context.Context, _ *uint64) (any, error) {
	r.cancel()
	var err error
	select {
	case <-r.ended:
	case <-ctx.Done():
		err = errors.New("the source does not end")
		r.out.close()
	}
	select {
	case <-r.written:
	case <-ctx.Done():
		if err == nil {
			err = errors.New("the host does not read what is queued")
		}
	}
	r.channel.Close()
	<-r.written
	r.use.metrics.flush()
	return map[string]any{"seq": r.last}, err
}

func (r *sourceRun) done() <-chan struct{} { return r.ended }

// commit tells a source that wants to know which offset is safe.
func (r *sourceRun) commit(seq uint64) {
	o := r.out
	if o.committer == nil {
		return
	}
	o.mu.Lock()
	var safe json.RawMessage
	for len(o.offsets) > 0 && o.offsets[0].seq <= seq {
		safe, o.offsets = o.offsets[0].offset, o.offsets[1:]
	}
	o.mu.Unlock()
	if safe != nil {
		if err := guard(func() error { o.committer.Commit(safe); return nil }); err != nil {
			r.use.session.report(r.use.id, err)
		}
	}
}
