// What `cargo figures sp` measures of mangos; the command line and the line of JSON are those of bench.c. The parent
// listens, receives or asks, checks and measures; the child dials.
package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/pair"
	"go.nanomsg.org/mangos/v3/protocol/pub"
	"go.nanomsg.org/mangos/v3/protocol/pull"
	"go.nanomsg.org/mangos/v3/protocol/push"
	"go.nanomsg.org/mangos/v3/protocol/rep"
	"go.nanomsg.org/mangos/v3/protocol/req"
	"go.nanomsg.org/mangos/v3/protocol/sub"
	_ "go.nanomsg.org/mangos/v3/transport/ipc"
	_ "go.nanomsg.org/mangos/v3/transport/tcp"
)

// sides are the sockets of the parent and of the child.
var sides = map[string][2]func() (mangos.Socket, error){
	"thr": {pull.NewSocket, push.NewSocket},
	"lat": {pair.NewSocket, pair.NewSocket},
	"rr":  {req.NewSocket, rep.NewSocket},
	"ctx": {req.NewSocket, rep.NewSocket},
	"pub": {sub.NewSocket, pub.NewSocket},
}

type job struct {
	mode, transport string
	kind            string // the mode without its number
	inFlight, size  int
	warmup, measure time.Duration
}

type result struct {
	Mode      string  `json:"mode"`
	Transport string  `json:"tr"`
	Size      int     `json:"size"`
	Messages  uint64  `json:"n"`
	Seconds   float64 `json:"sec"`
	Rate      float64 `json:"rate"`
	Parent    float64 `json:"cpu_parent_ns"`
	Child     float64 `json:"cpu_child_ns"`
	Mean      float64 `json:"mean_us"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	Lost      float64 `json:"lost"`
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "mangos:", err)
		os.Exit(1)
	}
}

// conversation is what a socket and a context have in common.
type conversation interface {
	SendMsg(*mangos.Message) error
	RecvMsg() (*mangos.Message, error)
}

func send(to conversation, size int, number uint64) {
	message := mangos.NewMessage(size)
	message.Body = message.Body[:size]
	binary.NativeEndian.PutUint64(message.Body, number)
	must(to.SendMsg(message))
}

// receive gives the number of the next message.
func receive(from conversation, size int) uint64 {
	message, err := from.RecvMsg()
	must(err)
	if len(message.Body) != size {
		must(fmt.Errorf("a message of %d bytes came, expected %d", len(message.Body), size))
	}
	number := binary.NativeEndian.Uint64(message.Body)
	message.Free()
	return number
}

func expect(from conversation, size int, number uint64) {
	if got := receive(from, size); got != number {
		must(fmt.Errorf("message %d came, expected %d", got, number))
	}
}

func (j job) open(side int) mangos.Socket {
	socket, err := sides[j.kind][side]()
	must(err)
	must(socket.SetOption(mangos.OptionMaxRecvSize, 16<<20))
	if j.kind == "pub" && side == 0 {
		must(socket.SetOption(mangos.OptionSubscribe, []byte{}))
	}
	return socket
}

// contexts gives the conversations that are under way together: the socket itself, or a context for each.
func (j job) contexts(socket mangos.Socket) []conversation {
	if j.kind != "ctx" {
		return []conversation{socket}
	}
	contexts := make([]conversation, j.inFlight)
	for at := range contexts {
		context, err := socket.OpenContext()
		must(err)
		contexts[at] = context
	}
	return contexts
}

// play is the child's part.
func (j job) play(address string) {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	socket := j.open(1)
	must(socket.Dial(address))
	if j.kind == "thr" || j.kind == "pub" {
		for number := uint64(0); ; number++ {
			send(socket, j.size, number)
		}
	}
	for _, context := range j.contexts(socket) {
		go func() {
			for {
				message, err := context.RecvMsg()
				must(err)
				must(context.SendMsg(message))
			}
		}()
	}
	select {}
}

func (j job) listen(socket mangos.Socket) string {
	address := "tcp://127.0.0.1:0"
	if j.transport == "ipc" {
		path := filepath.Join(os.TempDir(), fmt.Sprintf("mangosperf.%d.sock", os.Getpid()))
		address = "ipc://" + path
	}
	listener, err := socket.NewListener(address, nil)
	must(err)
	must(listener.Listen())
	return listener.Address()
}

// step is how many messages are received between two looks at the clock.
func (j job) step() int {
	switch {
	case j.size >= 16384:
		return 1
	case j.size >= 1024:
		return 16
	}
	return 64
}

// run is the parent's part: it handles messages while the time lasts, and tells how many. The first comes once
// the child is there.
func (j job) run(socket mangos.Socket, measure func(run func(time.Duration) uint64)) (times []time.Duration, lost float64) {
	switch j.kind {
	case "thr", "pub":
		next := receive(socket, j.size) + 1
		measure(func(limit time.Duration) (count uint64) {
			begun, first := time.Now(), next
			for time.Since(begun) < limit {
				for range j.step() {
					number := receive(socket, j.size)
					if number < next || j.kind == "thr" && number > next {
						must(fmt.Errorf("message %d came, expected %d", number, next))
					}
					next = number + 1
					count++
				}
			}
			lost = 1 - float64(count)/float64(max(next-first, 1))
			return count
		})
	case "ctx":
		var answered atomic.Uint64
		for at, context := range j.contexts(socket) {
			go func() {
				for number := uint64(at) << 40; ; number++ {
					send(context, j.size, number)
					expect(context, j.size, number)
					answered.Add(1)
				}
			}()
		}
		for answered.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		measure(func(limit time.Duration) uint64 {
			before := answered.Load()
			time.Sleep(limit)
			return answered.Load() - before
		})
	default:
		number := uint64(0)
		trip := func() {
			send(socket, j.size, number)
			expect(socket, j.size, number)
			number++
		}
		trip()
		measure(func(limit time.Duration) uint64 {
			times = make([]time.Duration, 0, 1<<20)
			begun := time.Now()
			for last := begun; last.Sub(begun) < limit && len(times) < cap(times); {
				trip()
				now := time.Now()
				times = append(times, now.Sub(last))
				last = now
			}
			return uint64(len(times))
		})
	}
	return times, lost
}

func (j job) measured() result {
	socket := j.open(0)
	address := j.listen(socket)
	child := j.start(address)
	r := result{Mode: j.mode, Transport: j.transport, Size: j.size}
	times, lost := j.run(socket, func(run func(time.Duration) uint64) {
		run(j.warmup)
		parent, other, begun := cpu("self"), cpu(strconv.Itoa(child.Process.Pid)), time.Now()
		r.Messages = run(j.measure)
		r.Seconds = time.Since(begun).Seconds()
		messages := float64(r.Messages)
		r.Parent = float64(cpu("self")-parent) / messages
		r.Child = float64(cpu(strconv.Itoa(child.Process.Pid))-other) / messages
		r.Rate = messages / r.Seconds
	})
	child.Process.Kill()
	child.Wait()
	if path, is := strings.CutPrefix(address, "ipc://"); is {
		os.Remove(path)
	}
	r.Lost = lost
	if len(times) > 0 {
		slices.Sort(times)
		microseconds := func(time time.Duration) float64 { return float64(time.Nanoseconds()) / 1000 }
		r.Mean = r.Seconds * 1e6 / float64(r.Messages)
		r.P50, r.P99 = microseconds(times[len(times)/2]), microseconds(times[len(times)*99/100])
	}
	return r
}

// start runs the dialing side: this program once more, or the one that the environment names.
func (j job) start(address string) *exec.Cmd {
	program := os.Getenv("SPPERF_PEER")
	if program == "" {
		self, err := os.Executable()
		must(err)
		program = self
	}
	child := exec.Command(program, j.mode, j.transport, strconv.Itoa(j.size), "0", "0", address)
	child.Stderr = os.Stderr
	// Its end tells that of the parent.
	_, err := child.StdinPipe()
	must(err)
	must(child.Start())
	return child
}

// cpu is the processor time of all threads of a process so far, in nanoseconds.
func cpu(process string) (total uint64) {
	threads, _ := filepath.Glob("/proc/" + process + "/task/*/schedstat")
	for _, thread := range threads {
		text, _ := os.ReadFile(thread)
		first, _, _ := strings.Cut(string(text), " ")
		time, _ := strconv.ParseUint(first, 10, 64)
		total += time
	}
	return total
}

func main() {
	if len(os.Args) < 4 {
		must(fmt.Errorf("usage: mangos thr|lat|rr|pub|ctx:N ipc|tcp SIZE [WARMUP_MS [MEASURE_MS]]"))
	}
	arguments := append(os.Args[1:], "150", "700")[:max(5, len(os.Args)-1)]
	number := func(text string) int {
		number, err := strconv.Atoi(text)
		must(err)
		return number
	}
	j := job{mode: arguments[0], transport: arguments[1], size: number(arguments[2])}
	j.warmup = time.Duration(number(arguments[3])) * time.Millisecond
	j.measure = time.Duration(number(arguments[4])) * time.Millisecond
	kind, count, many := strings.Cut(j.mode, ":")
	j.kind = kind
	if many {
		j.inFlight = number(count)
	}
	if _, known := sides[j.kind]; !known {
		must(fmt.Errorf("unknown mode %s", j.mode))
	}
	if len(arguments) > 5 {
		j.play(arguments[5])
	}
	must(json.NewEncoder(os.Stdout).Encode(j.measured()))
}
