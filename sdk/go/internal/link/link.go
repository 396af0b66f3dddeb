// Package link knows where a plugin's host is and how its channels are dialled and dialled again.
package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"mangrove.invalid/sdk/go/internal/sp"
)

// Dialer opens one connection.
type Dialer func(ctx context.Context, address string, protocol sp.Protocol, limit uint64) (*sp.Conn, error)

// Host is what a plugin is told about its host.
type Host struct {
	Control string // where to dial
	Token   string
	Plugin  string
	Dial    Dialer
}

// ErrNoHost is the error of a program that no Mangrove host started.
var ErrNoHost = errors.New("MANGROVE_CONTROL is not set: a Mangrove host starts this program; `mangrove plugin run` does so for development")

// FromEnvironment reads what the host has put into the environment.
func FromEnvironment() (Host, error) {
	host := Host{
		Control: os.Getenv("MANGROVE_CONTROL"),
		Token:   os.Getenv("MANGROVE_TOKEN"),
		Plugin:  os.Getenv("MANGROVE_PLUGIN"),
	}
	if host.Control == "" {
		return host, ErrNoHost
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if path := os.Getenv("MANGROVE_CA"); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return host, fmt.Errorf("MANGROVE_CA: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return host, fmt.Errorf("MANGROVE_CA: no certificate in %s", path)
		}
	}
	host.Dial = func(ctx context.Context, address string, protocol sp.Protocol, limit uint64) (*sp.Conn, error) {
		return sp.Dial(ctx, address, protocol, limit, config)
	}
	return host, nil
}

type key struct{}

// With lets a plugin that runs under ctx find this host instead of the environment's.
func With(ctx context.Context, host Host) context.Context { return context.WithValue(ctx, key{}, host) }

// From is the host that [With] has put into ctx, or the environment's.
func From(ctx context.Context) (Host, error) {
	if host, ok := ctx.Value(key{}).(Host); ok {
		return host, nil
	}
	return FromEnvironment()
}

// Resolve puts the host of the control address where a data address has `*`.
func (h Host) Resolve(address string) string {
	scheme, rest, _ := strings.Cut(address, "://")
	port, any := strings.CutPrefix(rest, "*:")
	if !any {
		return address
	}
	_, control, _ := strings.Cut(h.Control, "://")
	name, _, err := net.SplitHostPort(control)
	if err != nil {
		return address
	}
	return scheme + "://" + net.JoinHostPort(name, port)
}

const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Backoff spaces attempts out: 100 ms, growing to 5 s, each shortened by up to half so that many plugins don't come
// back at once. The zero value is ready.
type Backoff struct{ pause time.Duration }

// Next is how long to wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	b.pause = min(max(2*b.pause, firstPause), lastPause)
	return b.pause/2 + rand.N(b.pause/2+1)
}

// Wait waits for the next attempt or the end of ctx.
func (b *Backoff) Wait(ctx context.Context) error {
	timer := time.NewTimer(b.Next())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Reset forgets earlier failures.
func (b *Backoff) Reset() { b.pause = 0 }

// Channel is a data channel: a connection that is replaced when it breaks. It ends with its context.
type Channel struct {
	ctx      context.Context
	close    context.CancelFunc
	host     Host
	address  string
	protocol sp.Protocol
	limit    uint64

	mu      sync.Mutex // held while dialling: the other side of the channel waits for the same connection
	current *sp.Conn
	forget  func() bool // the end of the channel no longer closes current
	since   time.Time
	backoff Backoff
}

// Open dials address once; when that fails there is no channel.
func Open(ctx context.Context, host Host, address string, protocol sp.Protocol, limit uint64) (*Channel, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &Channel{ctx: ctx, close: cancel, host: host, address: host.Resolve(address), protocol: protocol, limit: limit}
	if err := c.dial(); err != nil {
		cancel()
		return nil, fmt.Errorf("data channel: %w", err)
	}
	return c, nil
}

func (c *Channel) dial() error {
	conn, err := c.host.Dial(c.ctx, c.address, c.protocol, c.limit)
	if err != nil {
		return err
	}
	c.forget = context.AfterFunc(c.ctx, func() { conn.Close() })
	c.current, c.since = conn, time.Now()
	return nil
}

// Conn is the connection in use, or a new one if that is broken. It waits until there is one or the channel is closed.
func (c *Channel) Conn(broken *sp.Conn) (*sp.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != broken && c.ctx.Err() == nil {
		return c.current, nil
	}
	if broken != nil {
		c.forget()
		broken.Close()
	}
	// A connection that broke at once was no success.
	if time.Since(c.since) > lastPause {
		c.backoff.Reset()
	}
	for {
		if err := c.backoff.Wait(c.ctx); err != nil {
			return nil, err
		}
		if err := c.dial(); err == nil {
			return c.current, nil
		}
	}
}

// Write sends a message, over the next connection if this one breaks.
func (c *Channel) Write(parts ...[]byte) error {
	conn, err := c.Conn(nil)
	for err == nil {
		if err = conn.Write(parts...); err == nil {
			return nil
		}
		conn, err = c.Conn(conn)
	}
	return err
}

// Close ends the channel; what waits in it fails.
func (c *Channel) Close() { c.close() }

// Watch dials again as soon as the connection of a channel breaks that nobody reads from. It returns when the channel
// is closed.
func (c *Channel) Watch() {
	conn, err := c.Conn(nil)
	for err == nil {
		for err == nil {
			_, err = conn.Read()
		}
		conn, err = c.Conn(conn)
	}
}
