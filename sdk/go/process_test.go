package mangrove_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	mangrove "mangrove.invalid/sdk/go"
	"mangrove.invalid/sdk/go/internal/sp"
)

// TestMain makes this program a plugin when a test has started it as one.
func TestMain(m *testing.M) {
	if os.Getenv("MANGROVE_TEST_PLUGIN") != "" {
		p := mangrove.New("")
		mangrove.AddSink(p, "sink", func(context.Context, *mangrove.Use, struct{}) (mangrove.Sink, error) {
			return sinkFunc(func(context.Context, mangrove.Result) error { return nil }), nil
		})
		p.Main()
	}
	os.Exit(m.Run())
}

func command(environment ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append([]string{"MANGROVE_TEST_PLUGIN=1", "MANGROVE_TOKEN=secret", "MANGROVE_PLUGIN=car"}, environment...)
	cmd.Stderr = nil
	return cmd
}

func status(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

func TestAProgramWithoutAHostEndsWithStatus2(t *testing.T) {
	cmd := command()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, _ := bufio.NewReader(stderr).ReadString('\n'); !strings.Contains(line, "MANGROVE_CONTROL") {
		t.Errorf("it says %q", line)
	}
	equal(t, status(t, cmd), 2)
}

func TestARefusalIsStatus1AndSIGTERMAndShutdownStatus0(t *testing.T) {
	for end, want := range map[string]int{"refused": 1, "shutdown": 0, "SIGTERM": 0} {
		s := &script{t: t, listens: listen(t, sp.Pair)}
		cmd := command("MANGROVE_CONTROL=" + s.listens.address)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if end == "refused" {
			s.control = s.listens.accept()
			equal(t, s.next("hello")["plugin"], "car")
			s.send(object{"type": "refused", "reason": "no"})
		} else {
			s.welcome()
			data := s.start("sink", "sink", object{"ack": true})
			write(t, data, object{"seq": 1, "results": []any{object{}}})
			if end == "shutdown" {
				s.send(object{"type": "shutdown", "timeout": 5000})
			} else if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			equal(t, s.next("ack")["seq"], 1.0)
		}
		equal(t, status(t, cmd), want)
	}
}

func TestAPluginTrustsTheAuthorityOfTheEnvironment(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	server, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	cmd := command("MANGROVE_CONTROL=tls+tcp://"+server.Addr().String(), "MANGROVE_CA="+authority)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stream, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := sp.Server(context.Background(), stream, false, sp.Pair, limit)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, read(t, conn)["token"], "secret")
	write(t, conn, object{"type": "refused", "reason": "enough"})
	equal(t, status(t, cmd), 1)
}
