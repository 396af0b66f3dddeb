// One mangos socket that does what its standard input says, and answers each command with one line: the same
// commands and answers as peer.py.
//
// As "device <kind> <near> <far>" it is a forwarding device of two raw sockets that listen there, until its standard
// input ends.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/bus"
	"go.nanomsg.org/mangos/v3/protocol/pair"
	"go.nanomsg.org/mangos/v3/protocol/pair1"
	"go.nanomsg.org/mangos/v3/protocol/pub"
	"go.nanomsg.org/mangos/v3/protocol/pull"
	"go.nanomsg.org/mangos/v3/protocol/push"
	"go.nanomsg.org/mangos/v3/protocol/rep"
	"go.nanomsg.org/mangos/v3/protocol/req"
	"go.nanomsg.org/mangos/v3/protocol/respondent"
	"go.nanomsg.org/mangos/v3/protocol/sub"
	"go.nanomsg.org/mangos/v3/protocol/surveyor"
	"go.nanomsg.org/mangos/v3/protocol/xpair1"
	"go.nanomsg.org/mangos/v3/protocol/xrep"
	"go.nanomsg.org/mangos/v3/protocol/xreq"
	"go.nanomsg.org/mangos/v3/protocol/xrespondent"
	"go.nanomsg.org/mangos/v3/protocol/xsurveyor"
	_ "go.nanomsg.org/mangos/v3/transport/ipc"
	_ "go.nanomsg.org/mangos/v3/transport/tcp"
	_ "go.nanomsg.org/mangos/v3/transport/tlstcp"
	_ "go.nanomsg.org/mangos/v3/transport/ws"
	_ "go.nanomsg.org/mangos/v3/transport/wss"
)

var kinds = map[string]func() (mangos.Socket, error){
	"pair":       pair.NewSocket,
	"pair1":      pair1.NewSocket,
	"push":       push.NewSocket,
	"pull":       pull.NewSocket,
	"req":        req.NewSocket,
	"rep":        rep.NewSocket,
	"pub":        pub.NewSocket,
	"sub":        sub.NewSocket,
	"surveyor":   surveyor.NewSocket,
	"respondent": respondent.NewSocket,
	"bus":        bus.NewSocket,
}

// sides are the raw sockets of a device, by the kind that dials its near side.
var sides = map[string][2]func() (mangos.Socket, error){
	"req":      {xrep.NewSocket, xreq.NewSocket},
	"surveyor": {xrespondent.NewSocket, xsurveyor.NewSocket},
	"pair1":    {xpair1.NewSocket, xpair1.NewSocket},
}

// peer is the socket, and what tells that another one is connected.
type peer struct {
	mangos.Socket
	attached chan struct{}
}

func block(size int) []byte {
	bytes := make([]byte, size)
	for at := range bytes {
		bytes[at] = byte(at % 251)
	}
	return bytes
}

func start(bytes []byte) []byte {
	return bytes[:min(len(bytes), 20)]
}

func compared(got, expected []byte) string {
	if bytes.Equal(got, expected) {
		return "same"
	}
	return fmt.Sprintf("different: %d bytes %q for %d bytes %q", len(got), start(got), len(expected), start(expected))
}

func (p *peer) obey(command, argument string) (string, error) {
	number, _ := strconv.Atoi(argument)
	switch command {
	case "connected":
		<-p.attached
		return "connected", nil
	case "subscribe":
		return "subscribed", p.SetOption(mangos.OptionSubscribe, []byte(argument))
	case "survey-time":
		return "set", p.SetOption(mangos.OptionSurveyTime, time.Duration(number)*time.Millisecond)
	case "send":
		return "sent", p.Send([]byte(argument))
	case "recv":
		// Some of its sockets do not take 0 for no limit.
		if argument != "" {
			if err := p.SetOption(mangos.OptionRecvDeadline, time.Duration(number)*time.Millisecond); err != nil {
				return "", err
			}
		}
		got, err := p.Recv()
		return "got " + string(got), err
	case "send-block":
		return "sent", p.Send(block(number))
	case "recv-block":
		got, err := p.Recv()
		return compared(got, block(number)), err
	case "send-numbers":
		for at := range number {
			if err := p.Send([]byte(strconv.Itoa(at))); err != nil {
				return "", err
			}
		}
		return "sent", nil
	case "recv-numbers":
		for at := range number {
			got, err := p.Recv()
			if err != nil {
				return "", err
			}
			if result := compared(got, []byte(strconv.Itoa(at))); result != "same" {
				return fmt.Sprintf("%s, at number %d", result, at), nil
			}
		}
		return "same", nil
	}
	return "", fmt.Errorf("unknown command %q", command)
}

func forward(kind string, addresses []string) error {
	var sockets [2]mangos.Socket
	for side, make := range sides[kind] {
		socket, err := make()
		if err != nil {
			return err
		}
		defer socket.Close()
		if err := socket.Listen(addresses[side]); err != nil {
			return err
		}
		sockets[side] = socket
	}
	if err := mangos.Device(sockets[0], sockets[1]); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// secured gives the option for TLS with the certificates in the folder that the environment names, if it does.
func secured() (map[string]any, error) {
	folder, is := os.LookupEnv("SP_TLS")
	if !is {
		return nil, nil
	}
	authority, err := os.ReadFile(filepath.Join(folder, "authority.pem"))
	if err != nil {
		return nil, err
	}
	both := filepath.Join(folder, "both.pem")
	certificate, err := tls.LoadX509KeyPair(both, both)
	if err != nil {
		return nil, err
	}
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(authority)
	config := &tls.Config{RootCAs: authorities, Certificates: []tls.Certificate{certificate}}
	return map[string]any{mangos.OptionTLSConfig: config}, nil
}

func run() error {
	if os.Args[1] == "device" {
		return forward(os.Args[2], os.Args[3:])
	}
	kind, way, address := os.Args[1], os.Args[2], os.Args[3]
	socket, err := kinds[kind]()
	if err != nil {
		return err
	}
	defer socket.Close()
	// No limit on what it receives.
	if err := socket.SetOption(mangos.OptionMaxRecvSize, 0); err != nil {
		return err
	}
	p := &peer{Socket: socket, attached: make(chan struct{}, 16)}
	socket.SetPipeEventHook(func(event mangos.PipeEvent, _ mangos.Pipe) {
		if event == mangos.PipeEventAttached {
			select {
			case p.attached <- struct{}{}:
			default:
			}
		}
	})
	options, err := secured()
	if err != nil {
		return err
	}
	if way == "listen" {
		err = socket.ListenOptions(address, options)
	} else {
		err = socket.DialOptions(address, options)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		command, argument, _ := strings.Cut(lines.Text(), " ")
		answer, err := p.obey(command, argument)
		if errors.Is(err, mangos.ErrRecvTimeout) {
			answer = "timed out"
		} else if err != nil {
			answer = "failed: " + err.Error()
		}
		fmt.Println(answer)
	}
	return lines.Err()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
