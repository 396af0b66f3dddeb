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

	"mangrove.invalid/sdk/go/internal/link"
	"mangrove.invalid/sdk/go/internal/sp"
)

const (
	commandTimeout = 5 * time.Second
	brokenInRow    = 10   // messages that break the contract, until the connection is closed
	queued         = 1024 // control messages that wait to be written
	firstLimit     = 1 << 20
	welcomeTimeout = 10 * time.Second
)

var (
	errDisconnected = errors.New("the connection to the host is gone")
	errShutdown     = errors.New("shutdown")
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
	conn.SetLimit(accepted.Limits.Message)
	s := newSession(ctx, p, host, conn, accepted.Limits)
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

func newSession(ctx context.Context, p *Plugin, host link.Host, conn *sp.Conn, limits limits) *session {
	s := &session{
		plugin:     p,
		host:       host,
		conn:       conn,
		limits:     limits,
		out:        make(chan any, queued),
		validating: make(chan struct{}, mostValidates),
		open:       map[uint64]*entry{},
		asked:      map[uint64]chan answer{},
	}
	// Not a child of ctx: what ctx asks for is an end in order.
	s.ctx, s.end = context.WithCancelCause(context.WithoutCancel(ctx))
	return s
}

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
	conn.SetReadDeadline(time.Now().Add(welcomeTimeout))
	defer conn.SetReadDeadline(time.Time{})
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
