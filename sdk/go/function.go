package mangrove

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"mangrove.dev/sdk/go/internal/link"
	"mangrove.dev/sdk/go/internal/sp"
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

// functionRun is a function at work: one goroutine reads calls, one writes results, and each call that runs has one.
type functionRun struct {
	use     *Use
	f       *function
	channel *link.Channel
	slots   chan struct{} // one token per call at work
	jobs    chan job      // for goroutines that wait for one
	idle    atomic.Int64
	results chan result
	working sync.WaitGroup
	ended   chan struct{}
	written chan struct{}

	mu       sync.Mutex
	conn     *sp.Conn
	stopping bool
	cancels  map[uint64]context.CancelFunc
}

// mostIdle is how many goroutines of one function wait for calls.
const mostIdle = 64

// job is a call to be made.
type job struct {
	ctx      context.Context
	id       uint64
	call     *Call
	finished func()
}

// result is what a call gave, encoded as `[id,value]`.
type result struct {
	encoded []byte
	failed  bool
}

func newFunctionRun(use *Use, f *function, channel *link.Channel) *functionRun {
	return &functionRun{
		use:     use,
		f:       f,
		channel: channel,
		slots:   make(chan struct{}, max(use.session.plugin.CallLimit, 1)),
		jobs:    make(chan job),
		results: make(chan result, 1024),
		ended:   make(chan struct{}),
		written: make(chan struct{}),
		cancels: map[uint64]context.CancelFunc{},
	}
}

func (r *functionRun) run() {
	go r.write()
	go func() {
		defer close(r.ended)
		defer close(r.results)
		defer close(r.jobs)
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

// reads notes the connection that is read from, and tells whether to read at all.
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
		cancel := r.cancels[id]
		r.mu.Unlock()
		if cancel != nil {
			cancel()
		}
	}
	if len(calls) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(r.use.session.ctx, data.Timeout.duration(time.Hour))
	var left atomic.Int64
	left.Store(int64(len(calls)))
	finished := func() {
		if left.Add(-1) == 0 {
			cancel()
		}
	}
	for _, raw := range calls {
		call := &Call{
			Args:       raw.args,
			RuleID:     data.Context.RuleID,
			OpID:       data.Context.OpID,
			InstanceID: data.Context.InstanceID,
			FuncID:     data.Context.FuncID,
			use:        r.use,
		}
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			// Their time is over before a slot was free, or the host is gone.
			finished()
			continue
		}
		one, cancel := context.WithCancel(ctx)
		r.mu.Lock()
		r.cancels[raw.id] = cancel
		r.mu.Unlock()
		r.working.Add(1)
		next := job{one, raw.id, call, func() { cancel(); finished() }}
		select {
		case r.jobs <- next:
		default:
			go r.work(next)
		}
	}
}

// work runs a job, then those that come while not too many others wait for one: a goroutine that has grown its stack is
// cheaper than a new one.
func (r *functionRun) work(next job) {
	for open := true; open; {
		r.call(next.ctx, next.id, next.call)
		next.finished()
		<-r.slots
		r.working.Done()
		if r.idle.Add(1) > mostIdle {
			r.idle.Add(-1)
			return
		}
		next, open = <-r.jobs
		r.idle.Add(-1)
	}
}

func (r *functionRun) call(ctx context.Context, id uint64, call *Call) {
	var value any
	err := guard(func() (err error) { value, err = r.f.exec(ctx, call); return err })
	r.mu.Lock()
	delete(r.cancels, id)
	r.mu.Unlock()
	if ctx.Err() != nil {
		return // nobody waits for it
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
	pair := make([]byte, 0, len(encoded)+24)
	pair = strconv.AppendUint(append(pair, '['), id, 10)
	pair = append(append(append(pair, ','), encoded...), ']')
	select {
	case r.results <- result{pair, err != nil}:
	case <-r.use.session.ctx.Done():
	case <-r.written:
	}
}

// write sends results, those together that are there together.
func (r *functionRun) write() {
	defer close(r.written)
	var held *result
	for {
		var results, failures []byte
		count := 0
		for count < r.use.session.limits.Batch {
			var next result
			open := true
			if held != nil {
				next, held = *held, nil
			} else if count == 0 {
				next, open = <-r.results
			} else {
				select {
				case next, open = <-r.results:
				default:
					open = false
				}
			}
			if !open {
				break
			}
			if count > 0 && len(results)+len(failures)+len(next.encoded) > batchBytes {
				held = &next
				break
			}
			list := &results
			if next.failed {
				list = &failures
			}
			if len(*list) > 0 {
				*list = append(*list, ',')
			}
			*list = append(*list, next.encoded...)
			count++
		}
		if count == 0 {
			return
		}
		parts := [][]byte{[]byte(`{"results":[`), results, []byte(`]}`)}
		if len(failures) > 0 {
			parts = [][]byte{[]byte(`{"results":[`), results, []byte(`],"errors":[`), failures, []byte(`]}`)}
		}
		if r.channel.Write(parts...) != nil {
			return
		}
	}
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
	case <-r.written:
	case <-ctx.Done():
		err = errors.New("calls are still running")
	}
	r.channel.Close()
	r.use.metrics.flush()
	return nil, err
}

func (r *functionRun) done() <-chan struct{} { return r.ended }
