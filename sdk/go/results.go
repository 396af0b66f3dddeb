package mangrove

import (
	"context"
	"strconv"
	"sync"

	"mangrove.invalid/sdk/go/internal/link"
)

// result is what a call gave: its value, or the text of its error, as JSON.
type result struct {
	id      uint64
	encoded []byte
	failed  bool
}

// results is the queue between calls and the channel: what is there when the channel is ready goes out together.
type results struct {
	written chan struct{} // closed when everything has been

	mu     sync.Mutex
	queue  []result
	bytes  int
	taken  chan struct{} // closed when the queue was taken
	ready  chan struct{} // has a token when there may be something to take
	closed bool
}

func newResults() results {
	return results{written: make(chan struct{}), taken: make(chan struct{}), ready: make(chan struct{}, 1)}
}

// put queues a result; it waits while too much waits already.
func (r *results) put(ctx context.Context, next result) {
	for {
		r.mu.Lock()
		if r.bytes < mostQueued {
			r.queue = append(r.queue, next)
			r.bytes += len(next.encoded)
			r.mu.Unlock()
			r.wake()
			return
		}
		taken := r.taken
		r.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return
		case <-r.written: // and never will be: the channel is closed
			return
		}
	}
}

func (r *results) wake() {
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

// close lets write end when everything has been written.
func (r *results) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wake()
}

// take waits for results; none are left when there are none.
func (r *results) take(spare []result) []result {
	for {
		r.mu.Lock()
		if len(r.queue) > 0 {
			queue := r.queue
			r.queue, r.bytes = spare, 0
			close(r.taken)
			r.taken = make(chan struct{})
			r.mu.Unlock()
			return queue
		}
		closed := r.closed
		r.mu.Unlock()
		if closed {
			return nil
		}
		<-r.ready
	}
}

// write sends results until the queue or the channel is closed.
func (r *results) write(channel *link.Channel, most int) {
	defer close(r.written)
	var spare []result
	var good, bad []byte
	for {
		queue := r.take(spare)
		if queue == nil {
			return
		}
		for at := 0; at < len(queue); {
			good, bad = append(good[:0], `{"results":[`...), append(bad[:0], `],"errors":[`...)
			start := len(good) + len(bad)
			for count := 0; at < len(queue) && count < most; count++ {
				next := &queue[at]
				if count > 0 && len(good)+len(bad)+len(next.encoded) > batchBytes {
					break
				}
				list := &good
				if next.failed {
					list = &bad
				}
				if (*list)[len(*list)-1] == ']' {
					*list = append(*list, ',')
				}
				*list = strconv.AppendUint(append(*list, '['), next.id, 10)
				*list = append(append(append(*list, ','), next.encoded...), ']')
				at++
			}
			if len(good)+len(bad) > start && channel.Write(good, bad, []byte("]}")) != nil {
				return
			}
		}
		if cap(good)+cap(bad) > 4*batchBytes {
			good, bad = nil, nil
		}
		clear(queue)
		spare = queue[:0]
	}
}
