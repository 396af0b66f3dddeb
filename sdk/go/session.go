package mangrove

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"mangrove.dev/sdk/go/internal/link"
	"mangrove.dev/sdk/go/internal/sp"
)

const (
	commandTimeout = 5 * time.Second
	dropGrace      = 2 * time.Second
	brokenInRow    = 10   // messages that break the contract, until the connection is closed
	mostUses       = 4096 // at a time
	mostValidates  = 256  // at a time
	queued         = 1024 // control messages that wait to be written
	firstLimit     = 1 << 20
)

var (
	errStopped      = errors.New("stopped")
	errDisconnected = errors.New("the connection to the host is gone")
)

// session is one control connection from hello to its end. Uses belong to it and go with it.
type session struct {
	plugin *Plugin
	host   link.Host
	conn   *sp.Conn
	limits limits

	ctx  context.Context // ends with the connection
	end  context.CancelCauseFunc
	out  chan any // messages, and *ack and flushed, which are made into messages when their turn comes
	uses sync.WaitGroup

	heard      atomic.Int64 // when the host was last heard, in nanoseconds
	validating chan struct{}
	down       sync.Once

	mu     sync.Mutex
	open   map[uint64]*entry
	asked  map[uint64]chan answer
	lastID uint64
}

// entry is a use from its start to the end of its stop.
type entry struct {
	cancel  context.CancelFunc
	started chan struct{} // closed when running or err is set
	running running
	err     error
	stopped bool
	gone    chan struct{} // closed at the end of the stop
}

// running is a use after its start.
type running interface {
	// stop ends the use in order and returns what the answer holds. When ctx ends it gives up.
	stop(ctx context.Context, seq *uint64) (any, error)
	// done is closed when nothing of the symbol runs any more, after its context has ended.
	done() <-chan struct{}
}

// flushed is closed when all messages in front of it have been written.
type flushed chan struct{}

// serve runs one control connection; nil means that the host or ctx has asked for the end.
func (p *Plugin) serve(ctx context.Context, host link.Host) error {
	conn, err := host.Dial(ctx, host.Control, sp.Pair, firstLimit)
	if err != nil {
		return err
	}
	defer conn.Close()
	accepted, err := p.hello(ctx, host, conn)
	if err != nil {
		return err
	}
	s := &session{
		plugin:     p,
		host:       host,
		conn:       conn,
		limits:     accepted.Limits,
		out:        make(chan any, queued),
		validating: make(chan struct{}, mostValidates),
		open:       map[uint64]*entry{},
		asked:      map[uint64]chan answer{},
	}
	conn.SetLimit(s.limits.Message)
	// Not a child of ctx: what ctx asks for is an end in order.
	s.ctx, s.end = context.WithCancelCause(context.WithoutCancel(ctx))
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()

	finished := make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Add(3)
	go func() { defer tasks.Done(); s.write() }()
	go func() { defer tasks.Done(); s.watch(time.Duration(accepted.Ping * float64(time.Millisecond))) }()
	go func() {
		defer tasks.Done()
		select {
		case <-ctx.Done():
			s.shutdown(p.StopTimeout)
			close(finished)
		case <-s.ctx.Done():
		}
	}()
	s.end(s.read())
	tasks.Wait()
	s.drop()
	select {
	case <-finished:
		return nil
	default:
	}
	if cause := context.Cause(s.ctx); cause != errShutdown {
		return cause
	}
	return nil
}

var errShutdown = errors.New("shutdown")

// hello opens the conversation.
func (p *Plugin) hello(ctx context.Context, host link.Host, conn *sp.Conn) (*welcome, error) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	type aggregate struct {
		Name      string `json:"name"`
		Aggregate bool   `json:"aggregate"`
	}
	functions := []any{}
	for _, name := range names(p.functions) {
		if p.functions[name].aggregate {
			functions = append(functions, aggregate{name, true})
		} else {
			functions = append(functions, name)
		}
	}
	err := writeJSON(conn, map[string]any{
		"type": "hello", "versions": []int{1}, "token": host.Token, "plugin": p.name, "sdk": "mangrove-go/" + Version,
		"symbols":   map[string]any{"sources": names(p.sources), "sinks": names(p.sinks), "functions": functions},
		"encodings": []string{"json"},
	})
	if err != nil {
		return nil, err
	}
	for range brokenInRow {
		message, err := conn.Read()
		if err != nil {
			return nil, err
		}
		var kind head
		var reply welcome
		if json.Unmarshal(message, &kind) != nil || kind.Type == nil || json.Unmarshal(message, &reply) != nil {
			fmt.Fprintln(os.Stderr, "expected welcome or refused, the host sent", excerpt(message))
			continue
		}
		switch *kind.Type {
		case "refused":
			return nil, &RefusedError{reply.Reason}
		case "welcome":
			if reply.Version != 1 {
				return nil, &RefusedError{fmt.Sprintf("it speaks version %d, this SDK version 1", reply.Version)}
			}
			if reply.Limits.Message == 0 {
				reply.Limits.Message = 32 << 20
			}
			if reply.Limits.Batch < 1 {
				reply.Limits.Batch = 1024
			}
			return &reply, nil
		}
	}
	return nil, errors.New("no welcome")
}

func names[V any](of map[string]V) []string {
	all := make([]string, 0, len(of))
	for name := range of {
		all = append(all, name)
	}
	sort.Strings(all)
	return all
}

func writeJSON(conn *sp.Conn, message any) error {
	encoded, err := json.Marshal(message)
	if err != nil {
		return err
	}
	return conn.Write(encoded)
}

// send queues a message for the host; it waits while the queue is full.
func (s *session) send(message any) {
	select {
	case s.out <- message:
	case <-s.ctx.Done():
	}
}

// offer queues a message unless the queue is full, and tells whether there is still a host.
func (s *session) offer(message any) bool {
	select {
	case s.out <- message:
	default:
	}
	return s.ctx.Err() == nil
}

func (s *session) write() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case message := <-s.out:
			if done, ok := message.(flushed); ok {
				close(done)
				continue
			}
			if pending, ok := message.(*ack); ok {
				message = pending.take()
			}
			encoded, err := json.Marshal(message)
			if err == nil && uint64(len(encoded)) > s.limits.Message {
				err = sp.ErrLimit
			}
			if err != nil {
				// Requests are checked before; of a note nothing but itself is lost.
				fmt.Fprintln(os.Stderr, "control message:", err)
				continue
			}
			if err := s.conn.Write(encoded); err != nil {
				s.end(err)
				return
			}
		}
	}
}

// watch closes a connection on which nothing is heard, not even the answer to a ping.
func (s *session) watch(interval time.Duration) {
	if interval < time.Millisecond {
		interval = 10 * time.Second
	}
	s.heard.Store(time.Now().UnixNano())
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
		}
		if time.Since(time.Unix(0, s.heard.Load())) < interval {
			continue
		}
		asked, cancel := context.WithTimeout(s.ctx, interval)
		_, err := s.ask(asked, func(id uint64) any { return map[string]any{"type": "ping", "id": id} })
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			s.end(errors.New("the host does not answer pings"))
			return
		}
	}
}

// ask sends a request and waits for its answer.
func (s *session) ask(ctx context.Context, request func(id uint64) any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	reply := make(chan answer, 1)
	s.mu.Lock()
	s.lastID++
	id := s.lastID
	s.asked[id] = reply
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.asked, id)
		s.mu.Unlock()
	}()
	encoded, err := json.Marshal(request(id))
	if err != nil {
		return nil, err
	}
	if uint64(len(encoded)) > s.limits.Message {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are sent", sp.ErrLimit, len(encoded), s.limits.Message)
	}
	select {
	case s.out <- json.RawMessage(encoded):
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ctx.Done():
		return nil, errDisconnected
	}
	select {
	case answer := <-reply:
		if answer.Error != nil {
			return nil, errors.New(*answer.Error)
		}
		return answer.Value, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ctx.Done():
		return nil, errDisconnected
	}
}

// reply answers a request of the host.
func (s *session) reply(id uint64, value any, err error) {
	type reply struct {
		Type  string `json:"type"`
		ID    uint64 `json:"id"`
		Value any    `json:"value,omitempty"`
		Error string `json:"error,omitempty"`
	}
	answer := reply{Type: "answer", ID: id, Value: value}
	if err != nil {
		answer.Value, answer.Error = nil, errorText(err)
	}
	s.send(answer)
}

// errorText is never empty: an empty error would be none on the wire.
func errorText(err error) string {
	if text := err.Error(); text != "" {
		return text
	}
	return "error without a text"
}

// report tells the host of an error that the use survives.
func (s *session) report(use uint64, err error) {
	s.send(map[string]any{"type": "error", "use": use, "error": errorText(err)})
}

func (s *session) read() error {
	broken := 0
	for {
		message, err := s.conn.Read()
		if err != nil {
			return err
		}
		s.heard.Store(time.Now().UnixNano())
		err = s.handle(message)
		switch {
		case err == errShutdown:
			return err
		case err == nil:
			broken = 0
			continue
		}
		fmt.Fprintf(os.Stderr, "control message %s: %v\n", excerpt(message), err)
		if broken++; broken == brokenInRow {
			return fmt.Errorf("%d messages in a row that break the contract", broken)
		}
	}
}

// handle does what a message asks for, without waiting for a symbol. Its error says how the message breaks the contract.
func (s *session) handle(message []byte) error {
	var head head
	if err := json.Unmarshal(message, &head); err != nil {
		return err
	}
	if head.Type == nil {
		return errors.New("expected an object with a type")
	}
	id := head.ID
	if id == nil {
		switch *head.Type {
		case "start", "validate", "stop", "ping", "answer":
			return fmt.Errorf("%s without an id", *head.Type)
		}
	}
	var err error
	switch *head.Type {
	case "ping":
		s.reply(*id, nil, nil)
	case "start":
		var request startRequest
		if err = json.Unmarshal(message, &request); err == nil && request.Use == nil {
			err = errors.New("start without a use")
		}
		if err == nil {
			s.start(*id, &request)
		}
	case "stop":
		var request stopRequest
		if err = json.Unmarshal(message, &request); err == nil && request.Use == nil {
			err = errors.New("stop without a use")
		}
		if err == nil {
			s.stop(*id, &request)
		}
	case "validate":
		var request validateRequest
		if err = json.Unmarshal(message, &request); err == nil {
			s.validate(*id, &request)
		}
	case "shutdown":
		var request stopRequest
		if err = json.Unmarshal(message, &request); err == nil {
			go s.shutdown(request.Timeout.duration(s.plugin.StopTimeout))
		}
	case "commit":
		var note commitNote
		if err = json.Unmarshal(message, &note); err == nil {
			s.commit(note)
		}
	case "answer":
		return s.answered(*id, message)
	default:
		if id != nil {
			s.reply(*id, nil, fmt.Errorf("unknown request %.100q", *head.Type))
		}
	}
	if err != nil && id != nil {
		s.reply(*id, nil, err)
	}
	return err
}

func (s *session) answered(id uint64, message []byte) error {
	var answer answer
	if err := json.Unmarshal(message, &answer); err != nil {
		return err
	}
	s.mu.Lock()
	reply := s.asked[id]
	delete(s.asked, id)
	last := s.lastID
	s.mu.Unlock()
	if reply != nil {
		reply <- answer
	} else if id == 0 || id > last {
		// Any other may be the late answer to a request that was given up.
		return fmt.Errorf("an answer to request %d, which was never sent", id)
	}
	return nil
}

func (s *session) start(id uint64, request *startRequest) {
	ctx, cancel := context.WithCancel(s.ctx)
	use := &entry{cancel: cancel, started: make(chan struct{}), gone: make(chan struct{})}
	s.mu.Lock()
	_, taken := s.open[*request.Use]
	full := len(s.open) >= mostUses
	if !taken && !full {
		s.open[*request.Use] = use
	}
	s.mu.Unlock()
	if taken || full {
		cancel()
		if taken {
			s.reply(id, nil, fmt.Errorf("use %d is started already", *request.Use))
		} else {
			s.reply(id, nil, fmt.Errorf("%d uses are open, no more can be", mostUses))
		}
		return
	}
	s.uses.Add(1)
	go func() {
		defer s.uses.Done()
		var run func()
		use.running, run, use.err = s.openUse(ctx, request)
		if use.err != nil {
			cancel()
			s.forget(*request.Use)
		}
		close(use.started)
		s.reply(id, nil, use.err)
		if use.err == nil {
			run()
			<-use.running.done()
		}
	}()
}

func (s *session) forget(use uint64) {
	s.mu.Lock()
	delete(s.open, use)
	s.mu.Unlock()
}

// openUse opens a symbol and its data channel; run is to be called when the host has been told.
func (s *session) openUse(ctx context.Context, start *startRequest) (running, func(), error) {
	use := newUse(s, start)
	protocol := sp.Pair
	var source Source
	var sink Sink
	var f *function
	var err error
	switch start.Kind {
	case "source":
		protocol = sp.Push
		open := s.plugin.sources[start.Symbol]
		if open == nil {
			return nil, nil, fmt.Errorf("no source %q", start.Symbol)
		}
		err = guard(func() (err error) { source, err = open(ctx, use, start.Config); return err })
	case "sink":
		protocol = sp.Pull
		open := s.plugin.sinks[start.Symbol]
		if open == nil {
			return nil, nil, fmt.Errorf("no sink %q", start.Symbol)
		}
		err = guard(func() (err error) { sink, err = open(ctx, use, start.Config); return err })
	case "function":
		if f = s.plugin.functions[start.Symbol]; f == nil {
			return nil, nil, fmt.Errorf("no function %q", start.Symbol)
		}
	default:
		return nil, nil, fmt.Errorf("no kind of symbol is called %q", start.Kind)
	}
	if err != nil {
		return nil, nil, err
	}
	// The channel outlives the symbol's context: what is queued when a source is stopped is still sent.
	channel, err := link.Open(s.ctx, s.host, start.Address, protocol, s.limits.Message)
	if err == nil && ctx.Err() != nil {
		channel.Close()
		err = errStopped
	}
	if err != nil {
		closeSink(sink)
		return nil, nil, err
	}
	switch start.Kind {
	case "source":
		r := newSourceRun(ctx, use, source, channel)
		return r, r.run, nil
	case "sink":
		r := newSinkRun(use, sink, channel, start.Ack)
		return r, r.run, nil
	default:
		r := newFunctionRun(use, f, channel)
		return r, r.run, nil
	}
}

func (s *session) stop(id uint64, request *stopRequest) {
	use := s.stopping(*request.Use)
	if use == nil {
		s.reply(id, nil, fmt.Errorf("use %d is not running", *request.Use))
		return
	}
	s.uses.Add(1)
	go func() {
		defer s.uses.Done()
		value, err := s.stopUse(*request.Use, use, request.Timeout.duration(commandTimeout), request.Seq)
		s.reply(id, value, err)
	}()
}

// stopping finds a use that is to be stopped, once.
func (s *session) stopping(id uint64) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	use := s.open[id]
	if use == nil || use.stopped {
		return nil
	}
	use.stopped = true
	return use
}

func (s *session) stopUse(id uint64, use *entry, timeout time.Duration, seq *uint64) (any, error) {
	defer close(use.gone)
	defer s.forget(id)
	// A little earlier than the host gives up, so that it hears why.
	ctx, cancel := context.WithTimeout(s.ctx, timeout-timeout/5)
	defer cancel()
	select {
	case <-use.started:
	default:
		use.cancel()
		select {
		case <-use.started:
		case <-ctx.Done():
			return nil, errors.New("opening does not end")
		}
	}
	if use.err != nil {
		return nil, nil
	}
	defer use.cancel()
	return use.running.stop(ctx, seq)
}

func (s *session) validate(id uint64, request *validateRequest) {
	f := s.plugin.functions[request.Symbol]
	if f == nil {
		s.reply(id, nil, fmt.Errorf("no function %q", request.Symbol))
		return
	}
	if f.validate == nil {
		s.reply(id, nil, nil)
		return
	}
	select {
	case s.validating <- struct{}{}:
	default:
		s.reply(id, nil, fmt.Errorf("%d validations are running, no more can", mostValidates))
		return
	}
	go func() {
		err := guard(func() error { return f.validate(request.Args) })
		<-s.validating
		s.reply(id, nil, err)
	}()
}

func (s *session) commit(note commitNote) {
	s.mu.Lock()
	use := s.open[note.Use]
	s.mu.Unlock()
	if use == nil {
		return
	}
	select {
	case <-use.started:
		if source, ok := use.running.(*sourceRun); ok {
			source.commit(note.Seq)
		}
	default:
	}
}

// shutdown ends all uses as by stop, then the connection.
func (s *session) shutdown(timeout time.Duration) {
	s.down.Do(func() {
		s.mu.Lock()
		open := make(map[uint64]*entry, len(s.open))
		for id, use := range s.open {
			open[id] = use
		}
		s.mu.Unlock()
		var stops sync.WaitGroup
		for id, use := range open {
			if s.stopping(id) == nil {
				continue
			}
			stops.Add(1)
			go func() {
				defer stops.Done()
				if _, err := s.stopUse(id, use, timeout, nil); err != nil {
					s.report(id, err)
				}
			}()
		}
		stops.Wait()
		late, cancel := context.WithTimeout(s.ctx, dropGrace)
		defer cancel()
		for _, use := range open { // those that the host was stopping already
			select {
			case <-use.gone:
			case <-late.Done():
			}
		}
		written := make(flushed)
		select {
		case s.out <- written:
		case <-late.Done():
		}
		select {
		case <-written:
		case <-late.Done():
		}
		s.end(errShutdown)
	})
}

// drop waits until the uses, whose contexts have ended with the connection, are gone.
func (s *session) drop() {
	gone := make(chan struct{})
	go func() { s.uses.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(dropGrace):
		fmt.Fprintln(os.Stderr, "a symbol goes on although its context has ended")
	}
}

// guard makes a panic of the author an error.
func guard(call func() error) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			fmt.Fprintf(os.Stderr, "panic: %v\n%s", reason, debug.Stack())
			err = fmt.Errorf("panic: %v", reason)
		}
	}()
	return call()
}
