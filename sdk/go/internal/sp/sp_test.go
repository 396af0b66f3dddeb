package sp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"time"
)

// ends returns both ends of a connection in memory after their handshake.
func ends(t *testing.T, typed bool, limit uint64) (client, server *Conn) {
	t.Helper()
	a, b := net.Pipe()
	served := make(chan error, 1)
	go func() {
		var err error
		server, err = Server(context.Background(), b, typed, Pull, limit)
		served <- err
	}()
	client, err := Client(context.Background(), a, typed, Push, limit)
	if err := errors.Join(err, <-served); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func TestMessagesOfEverySizeArriveWhole(t *testing.T) {
	for _, typed := range []bool{false, true} {
		client, server := ends(t, typed, 1<<20)
		for _, size := range []int{0, 1, 8, 9, 16<<10 + 1, 1 << 20} {
			message := bytes.Repeat([]byte{'x'}, size)
			sent := make(chan error, 1)
			go func() { sent <- client.Write(message[:size/2], message[size/2:]) }()
			received, err := server.Read()
			if err := errors.Join(err, <-sent); err != nil || !bytes.Equal(received, message) {
				t.Fatalf("typed %v, %d bytes: %d received, %v", typed, size, len(received), err)
			}
		}
	}
}

func TestAnySplitOfTheStreamGivesTheSameMessages(t *testing.T) {
	stream := []byte{0, 0, 0, 0, 0, 0, 0, 2, 'a', 'b', 0, 0, 0, 0, 0, 0, 0, 0}
	conn := newConn(nil, false, 10)
	conn.reader.Reset(iotest.OneByteReader(bytes.NewReader(stream)))
	for _, want := range []string{"ab", ""} {
		if message, err := conn.Read(); err != nil || string(message) != want {
			t.Fatalf("%q, %v; expected %q", message, err, want)
		}
	}
	if _, err := conn.Read(); err != io.EOF {
		t.Fatalf("%v, expected the end", err)
	}
}

func TestBrokenFramesAreErrors(t *testing.T) {
	for name, stream := range map[string][]byte{
		"a wrong type":    {2, 0, 0, 0, 0, 0, 0, 0, 0},
		"a huge length":   {1, 255, 255, 255, 255, 255, 255, 255, 255},
		"over the limit":  {1, 0, 0, 0, 0, 0, 0, 0, 11},
		"half a header":   {1, 0, 0},
		"half of a frame": {1, 0, 0, 0, 0, 0, 0, 0, 5, 'a'},
	} {
		conn := newConn(nil, true, 10)
		conn.reader.Reset(bytes.NewReader(stream))
		if _, err := conn.Read(); err == nil || err == io.EOF {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAForeignHeaderIsRefused(t *testing.T) {
	for _, header := range []string{"HTTP/1.1", "\x00SP\x00\x00\x10\x00\x00", "\x00SP\x00\x00\x51\x00\x01", "\x00SP"} {
		a, b := net.Pipe()
		go func() {
			_, _ = io.ReadFull(b, make([]byte, 8))
			_, _ = b.Write([]byte(header))
			b.Close()
		}()
		if _, err := Client(context.Background(), a, false, Push, 10); err == nil {
			t.Errorf("%q was taken for the header of a pull socket", header)
		}
	}
}

func TestASilentPeerIsGivenUp(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.ReadFull(b, make([]byte, 8))
		cancel()
	}()
	if _, err := Client(ctx, a, false, Pair, 10); err == nil {
		t.Error("a handshake without the peer's header")
	}
}

func TestADeadlineBetweenMessagesLosesNothing(t *testing.T) {
	client, server := ends(t, false, 10)
	server.SetReadDeadline(time.Now())
	if _, err := server.Read(); !IsTimeout(err) {
		t.Fatalf("%v, expected a timeout", err)
	}
	server.SetReadDeadline(time.Time{})
	go func() { _ = client.Write([]byte("late")) }()
	if message, err := server.Read(); err != nil || string(message) != "late" {
		t.Fatalf("%q, %v", message, err)
	}
}
