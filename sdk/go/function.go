package mangrove

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"mangrove.invalid/sdk/go/internal/link"
	"mangrove.invalid/sdk/go/internal/sp"
)

// Call is one call of a function. Its context ends when nobody waits for the result any more.
type Call struct {
	Args       []json.RawMessage // of an aggregate: for each argument the list of that column's values
	RuleID     string
	OpID       string
	InstanceID int
	FuncID     int // tells the calls of one function in one rule apart

	use *Use
}

// Logger is [Use.Logger] with the rule of the call.
func (c *Call) Logger() *slog.Logger { return c.use.logger.With("ruleId", c.RuleID) }

// State is kept by the host for this function and the rule of the call.
func (c *Call) State() State {
	return State{session: c.use.session, use: c.use.id, rule: c.RuleID, ruleless: c.RuleID == ""}
}

// Counter is [Use.Counter].
func (c *Call) Counter(name string) Counter { return c.use.Counter(name) }

// Gauge is [Use.Gauge].
func (c *Call) Gauge(name string) Gauge { return c.use.Gauge(name) }

// Arg decodes one argument of a call, counted from 0.
func Arg[T any](call *Call, index int) (value T, err error) {
	if index >= len(call.Args) {
		return value, fmt.Errorf("argument %d is missing", index+1)
	}
	if err = json.Unmarshal(call.Args[index], &value); err != nil {
		err = fmt.Errorf("argument %d: %w", index+1, err)
	}
	return value, err
}

// FunctionOption is a trait of a function.
type FunctionOption func(*function)

// Aggregate makes a function one that is called once for a group of rows.
func Aggregate() FunctionOption { return func(f *function) { f.aggregate = true } }

// Validate checks the arguments of a call when its rule is made: literals are given as values, all others as their SQL
// text.
func Validate(check func(args []json.RawMessage) error) FunctionOption {
	return func(f *function) { f.validate = check }
}

type function struct {
	exec      func(ctx context.Context, call *Call) (any, error)
	validate  func(args []json.RawMessage) error
	aggregate bool
}

const (
	mostIdle   = 64               // goroutines of one function that wait for calls
	stall      = time.Millisecond // of a call, until the others of its message go on without it
	mostQueued = 1 << 20          // bytes of results that wait to be written
)

// functionRun is a function at work: one goroutine reads calls, one writes results. The calls of one message run in one
// goroutine, one after the other, because most take less time than starting another would; as long as one of them does
// not return, more and more goroutines take over the rest.
type functionRun struct {
	use     *Use
	f       *function
	channel *link.Channel
	slots   chan struct{} // one token per goroutine at work
	groups  chan *group   // for goroutines that wait for one
	idle    atomic.Int64
	working sync.WaitGroup
	ended   chan struct{}
	results results

	mu       sync.Mutex
	conn     *sp.Conn
	stopping bool
	running  map[uint64]*callContext
}

// group is the calls of one message.
type group struct {
	ctx    context.Context
	cancel context.CancelFunc
	shared Call
	calls  []rawCall
	ctxs   []callContext
	next   atomic.Int64 // the call to be made next
	left   atomic.Int64 // calls that have not ended
}

// callContext is the context of one call. Most calls never ask whether it has ended, so what it takes to wait for the
// end is made when they do.
type callContext struct {
	context.Context // of the group
	mu              sync.Mutex
	inner           context.Context
	cancel          context.CancelFunc
	ended           bool
}

func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.cancel = context.WithCancel(c.Context)
		if c.ended {
			c.cancel()
		}
	}
	return c.inner.Done()
}

func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return context.Canceled
	}
	return c.Context.Err()
}

func (c *callContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}

func newFunctionRun(use *Use, f *function, channel *link.Channel) *functionRun {
	return &functionRun{
		use:     use,
		f:       f,
		channel: channel,
		slots:   make(chan struct{}, max(use.session.plugin.CallLimit, 1)),
		groups:  make(chan *group),
		ended:   make(chan struct{}),
		results: newResults(),
		running: map[uint64]*callContext{},
	}
}

func (r *functionRun) run() {
	go r.results.write(r.channel, r.use.session.limits.Batch)
	go func() {
		defer close(r.ended)
		defer r.results.close()
		defer close(r.groups)
		defer r.working.Wait()
		var broken *sp.Conn
		for {
			conn, err := r.channel.Conn(broken)
			if err != nil || r.reads(conn) {
				return
			}
			message, err := conn.Read()
			switch {
			case err == nil:
				r.handle(message)
			case sp.IsTimeout(err):
				return
			default:
				if errors.Is(err, sp.ErrLimit) {
					r.use.session.report(r.use.id, err)
				}
				broken = conn
			}
		}
	}()
}

// reads notes the connection that is read from, and tells whether the function is being stopped.
func (r *functionRun) reads(conn *sp.Conn) (stopping bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn = conn
	return r.stopping
}

func (r *functionRun) handle(message []byte) {
	var data callData
	err := json.Unmarshal(message, &data)
	var calls []rawCall
	if err == nil {
		calls, err = parseCalls(data.Calls, r.use.session.limits.Batch)
	}
	if err != nil {
		r.use.session.report(r.use.id, fmt.Errorf("function data %s: %w", excerpt(message), err))
		return
	}
	for _, id := range data.Cancel {
		r.mu.Lock()
		call := r.running[id]
		r.mu.Unlock()
		if call != nil {
			call.end()
		}
	}
	if len(calls) == 0 {
		return
	}
	g := &group{calls: calls, ctxs: make([]callContext, len(calls)), shared: Call{
		RuleID:     data.Context.RuleID,
		OpID:       data.Context.OpID,
		InstanceID: data.Context.InstanceID,
		FuncID:     data.Context.FuncID,
		use:        r.use,
	}}
	if timeout := data.Timeout.duration(time.Hour); timeout > 0 {
		g.ctx, g.cancel = context.WithTimeout(r.use.session.ctx, timeout)
	} else {
		g.ctx, g.cancel = context.WithCancel(r.use.session.ctx)
	}
	g.left.Store(int64(len(calls)))
	r.mu.Lock()
	for index, call := range calls {
		g.ctxs[index].Context = g.ctx
		r.running[call.id] = &g.ctxs[index]
	}
	r.mu.Unlock()
	select {
	case r.slots <- struct{}{}:
		r.hand(g)
		if len(calls) > 1 {
			r.working.Add(1)
			r.watch(g, 0, 1)
		}
	case <-r.use.session.ctx.Done():
		g.cancel()
	}
}

// hand gives a group to a goroutine, for which there is a slot.
func (r *functionRun) hand(g *group) {
	r.working.Add(1)
	select {
	case r.groups <- g:
	default:
		go r.work(g)
	}
}

// watch lets twice as many goroutines work on a group when none of its calls has begun since the last look. It counts
// as working itself until all have begun.
func (r *functionRun) watch(g *group, before int64, workers int) {
	time.AfterFunc(stall, func() {
		next := g.next.Load()
		if next >= int64(len(g.calls)) {
			r.working.Done()
			return
		}
		if next == before {
			for range min(workers, len(g.calls)-int(next)) {
				select {
				case r.slots <- struct{}{}:
					r.hand(g)
					workers++
				default:
				}
			}
		}
		r.watch(g, next, workers)
	})
}

// work makes calls of a group while there are any, then of those that come while not too many others wait for one: a
// goroutine that has grown its stack is cheaper than a new one.
func (r *functionRun) work(g *group) {
	for open := true; open; {
		for {
			next := g.next.Add(1) - 1
			if next >= int64(len(g.calls)) {
				break
			}
			r.call(g, int(next))
			if g.left.Add(-1) == 0 {
				g.cancel()
			}
		}
		<-r.slots
		r.working.Done()
		if r.idle.Add(1) > mostIdle {
			r.idle.Add(-1)
			return
		}
		g, open = <-r.groups
		r.idle.Add(-1)
	}
}

func (r *functionRun) call(g *group, index int) {
	id, ctx := g.calls[index].id, &g.ctxs[index]
	call := g.shared
	call.Args = g.calls[index].args
	var value any
	var err error
	if ctx.Err() == nil {
		err = guard(func() (err error) { value, err = r.f.exec(ctx, &call); return err })
	}
	r.mu.Lock()
	if r.running[id] == ctx {
		delete(r.running, id)
	}
	r.mu.Unlock()
	given := ctx.Err() != nil
	ctx.end()
	if given {
		return // up: nobody waits for it
	}
	var encoded []byte
	if err == nil {
		err = guard(func() (err error) { encoded, err = encode(value); return err })
	}
	if limit := r.use.session.limits.Message; err == nil && uint64(len(encoded)+envelope) > limit {
		err = fmt.Errorf("%w: a result of %d bytes, at most %d are sent", sp.ErrLimit, len(encoded), limit)
	}
	if err != nil {
		encoded, _ = json.Marshal(errorText(err))
	}
	r.results.put(r.use.session.ctx, result{id, encoded, err != nil})
}

func (r *functionRun) stop(ctx context.Context, _ *uint64) (any, error) {
	r.mu.Lock()
	r.stopping = true
	if r.conn != nil {
		r.conn.SetReadDeadline(time.Now())
	}
	r.mu.Unlock()
	var err error
	select {
	case <-r.results.written:
	case <-ctx.Done():
		err = errors.New("calls are still running")
	}
	r.channel.Close()
	r.use.metrics.flush()
	return nil, err
}

func (r *functionRun) done() <-chan struct{} { return r.ended }
