package mangrove

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"mangrove.invalid/sdk/go/internal/link"
	"mangrove.invalid/sdk/go/internal/sp"
)

const (
	mostUses      = 4096 // at a time
	mostValidates = 256  // at a time
	dropGrace     = 2 * time.Second
)

var errStopped = errors.New("stopped")

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
