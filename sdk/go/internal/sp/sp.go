// Package sp speaks as much of SP, the protocol of nanomsg, nng and mangos, as a plugin needs: one connection at a
// time, over ipc, tcp and tls+tcp, for pair v0, push and pull.
//
// It knows connections and frames, not what is in them, and it does not dial again: a message belongs to the
// connection that it was written to, and whoever owns the connection decides what becomes of it when that breaks.
package sp

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// Protocol is an SP protocol number.
type Protocol uint16

// The protocols of the contract.
const (
	Pair Protocol = 16
	Push Protocol = 80
	Pull Protocol = 81
)

// Peer is the protocol that the other end has to announce.
func (p Protocol) Peer() Protocol {
	switch p {
	case Push:
		return Pull
	case Pull:
		return Push
	default:
		return p
	}
}

// HandshakeTimeout is how long dialling and both headers may take together.
const HandshakeTimeout = 5 * time.Second

// ErrLimit is the error of a message that is longer than its connection allows.
var ErrLimit = errors.New("message over the limit")

// Conn is a connection to one SP peer. One goroutine may read and one may write at the same time.
type Conn struct {
	stream net.Conn
	reader *bufio.Reader
	typed  bool // ipc puts the type of the frame in front of its length
	limit  atomic.Uint64
	header [9]byte
}

// Dial connects to address (ipc://, tcp:// or tls+tcp://) and shakes hands as protocol. limit is the longest message
// that it reads, in bytes.
func Dial(ctx context.Context, address string, protocol Protocol, limit uint64, config *tls.Config) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	scheme, rest, _ := strings.Cut(address, "://")
	var stream net.Conn
	var err error
	switch scheme {
	case "ipc":
		stream, err = new(net.Dialer).DialContext(ctx, "unix", rest)
	case "tcp":
		stream, err = new(net.Dialer).DialContext(ctx, "tcp", rest)
	case "tls+tcp":
		stream, err = (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", rest)
	default:
		return nil, fmt.Errorf("address %q: expected ipc://, tcp:// or tls+tcp://", address)
	}
	if err != nil {
		return nil, err
	}
	return Client(ctx, stream, scheme == "ipc", protocol, limit)
}

// Client shakes hands over a stream that was dialled. The stream is closed when that fails.
func Client(ctx context.Context, stream net.Conn, typed bool, protocol Protocol, limit uint64) (*Conn, error) {
	conn := newConn(stream, typed, limit)
	err := conn.shakeHands(ctx, func() error {
		if err := conn.sendHeader(protocol); err != nil {
			return err
		}
		return conn.expectHeader(protocol)
	})
	return conn, err
}

// Server shakes hands over a stream that was accepted: it hears the peer out first.
func Server(ctx context.Context, stream net.Conn, typed bool, protocol Protocol, limit uint64) (*Conn, error) {
	conn := newConn(stream, typed, limit)
	err := conn.shakeHands(ctx, func() error {
		if err := conn.expectHeader(protocol); err != nil {
			return err
		}
		return conn.sendHeader(protocol)
	})
	return conn, err
}

func newConn(stream net.Conn, typed bool, limit uint64) *Conn {
	conn := &Conn{stream: stream, reader: bufio.NewReaderSize(stream, 64<<10), typed: typed}
	conn.limit.Store(limit)
	return conn
}

func (c *Conn) shakeHands(ctx context.Context, shake func() error) error {
	stop := context.AfterFunc(ctx, func() { c.stream.Close() })
	err := shake()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.stream.Close()
		return fmt.Errorf("SP handshake: %w", err)
	}
	return nil
}

func (c *Conn) sendHeader(protocol Protocol) error {
	header := [8]byte{0, 'S', 'P', 0}
	binary.BigEndian.PutUint16(header[4:], uint16(protocol))
	_, err := c.stream.Write(header[:])
	return err
}

func (c *Conn) expectHeader(protocol Protocol) error {
	var header, want [8]byte
	if _, err := io.ReadFull(c.reader, header[:]); err != nil {
		return err
	}
	want = [8]byte{0, 'S', 'P', 0}
	binary.BigEndian.PutUint16(want[4:], uint16(protocol.Peer()))
	if header != want {
		return fmt.Errorf("the peer sent % x, expected % x", header, want)
	}
	return nil
}

// SetLimit changes the longest message that is read, in bytes.
func (c *Conn) SetLimit(limit uint64) { c.limit.Store(limit) }

// Read waits for the next message. After an error that is no timeout of [Conn.SetReadDeadline] the connection is of no
// use any more.
func (c *Conn) Read() ([]byte, error) {
	header := c.header[:8]
	if c.typed {
		header = c.header[:9]
	}
	// A deadline between two messages loses nothing: what was read of a header stays in the reader.
	if peeked, err := c.reader.Peek(len(header)); err != nil {
		if len(peeked) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if _, err := io.ReadFull(c.reader, header); err != nil {
		return nil, err
	}
	if c.typed {
		if header[0] != 1 {
			return nil, fmt.Errorf("ipc frame of type %d, expected 1", header[0])
		}
		header = header[1:]
	}
	length := binary.BigEndian.Uint64(header)
	if limit := c.limit.Load(); length > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrLimit, length, limit)
	}
	message := make([]byte, length)
	_, err := io.ReadFull(c.reader, message)
	return message, err
}

// SetReadDeadline lets a [Conn.Read] that waits for a message fail with [os.ErrDeadlineExceeded] at that time.
func (c *Conn) SetReadDeadline(at time.Time) { _ = c.stream.SetReadDeadline(at) }

// Write sends one message, the parts one after the other. It waits while the peer does not read.
func (c *Conn) Write(parts ...[]byte) error {
	length := 0
	for _, part := range parts {
		length += len(part)
	}
	header := make([]byte, 0, 9)
	if c.typed {
		header = append(header, 1)
	}
	header = binary.BigEndian.AppendUint64(header, uint64(length))
	buffers := append(net.Buffers{header}, parts...)
	if length <= 16<<10 {
		// One small write is cheaper than a vectored one, and TLS makes a record of each part.
		joined := make([]byte, 0, len(header)+length)
		for _, part := range buffers {
			joined = append(joined, part...)
		}
		_, err := c.stream.Write(joined)
		return err
	}
	_, err := buffers.WriteTo(c.stream)
	return err
}

// Close ends the connection; a Read or Write that waits fails.
func (c *Conn) Close() error { return c.stream.Close() }

// IsTimeout tells whether err is that of a read deadline.
func IsTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
