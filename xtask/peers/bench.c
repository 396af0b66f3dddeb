// One harness, many libraries: what `cargo figures sp` measures sp-proto against. Two processes (fork before any library
// call). Parent = receiver (thr, pub) / asker (lat, rr, ctx) and does all measuring; the child dials.
// usage: bench_X thr|lat|rr|pub|ctx:N ipc|tcp SIZE [warm_ms] [meas_ms] [URL]
// With a URL it is the dialing side of another program, and ends with that one; SPPERF_PEER names another program with
// this command line to be the dialing side. ctx:N has N requests in flight over one connection: contexts in nng, a
// window of messages where a library has none.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *w) { perror(w); fprintf(stderr, "DIE %s\n", w); exit(2); }
static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static uint64_t cpu(clockid_t c) { struct timespec t; if (clock_gettime(c, &t)) return 0; return t.tv_sec * 1000000000ull + t.tv_nsec; }

static const char *MODE, *TR; static char URL[160]; static size_t SZ; static int PORT; static char PATH_[108];
static int is_thr, is_lat, is_rr, is_ctx, is_pub; static int IN_FLIGHT = 1;

/* ---- library shim:
   lib_server()  bind side, called in parent
   lib_client()  connect side, called in child
   tx()/txflush(): send one message of SZ bytes whose first 8 bytes are seq
   rx(): receive one message, check length, return its seq */
#if defined(LIB_NNG)
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <nng/protocol/pipeline0/pull.h>
#include <nng/protocol/pipeline0/push.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/pubsub0/sub.h>
#include <nng/protocol/reqrep0/req.h>
#define CK(x) do { int r_ = (x); if (r_) { fprintf(stderr, "%s: %s\n", #x, nng_strerror(r_)); exit(2);} } while (0)
static nng_socket S;
static void opts(void) {
  nng_socket_set_size(S, NNG_OPT_RECVMAXSZ, 16u << 20);
  char *b = getenv("NNG_BUF");
  if (b) { nng_socket_set_int(S, NNG_OPT_SENDBUF, atoi(b)); nng_socket_set_int(S, NNG_OPT_RECVBUF, atoi(b)); }
}
static void lib_server(void) {
  if (is_pub) { CK(nng_sub0_open(&S)); CK(nng_socket_set(S, NNG_OPT_SUB_SUBSCRIBE, "", 0)); }
  else if (is_thr && !getenv("THR_PAIR")) CK(nng_pull0_open(&S)); else if (!is_rr) CK(nng_pair0_open(&S)); else CK(nng_req0_open(&S));
  opts(); CK(nng_listen(S, URL, NULL, 0));
}
static void lib_client(void) {
  if (is_pub) CK(nng_pub0_open(&S)); else if (is_thr && !getenv("THR_PAIR")) CK(nng_push0_open(&S)); else if (!is_rr) CK(nng_pair0_open(&S)); else CK(nng_rep0_open(&S));
  opts(); CK(nng_dial(S, URL, NULL, 0));
}
static void tx(uint64_t seq) { nng_msg *m; CK(nng_msg_alloc(&m, SZ)); memcpy(nng_msg_body(m), &seq, 8); CK(nng_sendmsg(S, m, 0)); }
static void txflush(void) {}
static uint64_t rx(void) { nng_msg *m; uint64_t q; CK(nng_recvmsg(S, &m, 0)); if (nng_msg_len(m) != SZ) die("len"); memcpy(&q, nng_msg_body(m), 8); nng_msg_free(m); return q; }
/* contexts: each sends, receives, and so on, driven by the completions of its own aio */
#define HAS_CONTEXTS
static uint64_t ANSWERED;
struct asker { nng_ctx ctx; nng_aio *aio; uint64_t seq; int sending; };
static void turn(void *arg) {
  struct asker *a = arg; nng_msg *m; uint64_t q;
  CK(nng_aio_result(a->aio));
  if (a->sending) { a->sending = 0; nng_ctx_recv(a->ctx, a->aio); return; }
  m = nng_aio_get_msg(a->aio);
  if (is_ctx == 1) {
    if (nng_msg_len(m) != SZ) die("len");
    memcpy(&q, nng_msg_body(m), 8); if (q != a->seq++) die("seq");
    memcpy(nng_msg_body(m), &a->seq, 8);
    __atomic_fetch_add(&ANSWERED, 1, __ATOMIC_RELAXED);
  }
  a->sending = 1; nng_aio_set_msg(a->aio, m); nng_ctx_send(a->ctx, a->aio);
}
static void contexts(void) {
  struct asker *all = calloc(IN_FLIGHT, sizeof *all);
  for (int i = 0; i < IN_FLIGHT; i++) {
    struct asker *a = &all[i]; nng_msg *m;
    CK(nng_ctx_open(&a->ctx, S)); CK(nng_aio_alloc(&a->aio, turn, a));
    if (is_ctx == 2) { nng_ctx_recv(a->ctx, a->aio); continue; }
    a->seq = (uint64_t) i << 40; a->sending = 1;
    CK(nng_msg_alloc(&m, SZ)); memcpy(nng_msg_body(m), &a->seq, 8);
    nng_aio_set_msg(a->aio, m); nng_ctx_send(a->ctx, a->aio);
  }
}
static uint64_t answered(void) { return __atomic_load_n(&ANSWERED, __ATOMIC_RELAXED); }

#elif defined(LIB_NANOMSG)
#include <nanomsg/nn.h>
#include <nanomsg/pair.h>
#include <nanomsg/pipeline.h>
#include <nanomsg/pubsub.h>
#include <nanomsg/reqrep.h>
#include <nanomsg/tcp.h>
static int S;
#define CK(x) do { if ((x) < 0) { fprintf(stderr, "%s: %s\n", #x, nn_strerror(nn_errno())); exit(2);} } while (0)
static void opts(void) { int mx = -1; CK(nn_setsockopt(S, NN_SOL_SOCKET, NN_RCVMAXSIZE, &mx, sizeof mx));
  if (getenv("NODELAY")) { int o = 1; CK(nn_setsockopt(S, NN_TCP, NN_TCP_NODELAY, &o, sizeof o)); } 
  if (getenv("NN_BUF")) { int o = atoi(getenv("NN_BUF")); CK(nn_setsockopt(S, NN_SOL_SOCKET, NN_RCVBUF, &o, sizeof o)); } }
static void lib_server(void) { S = nn_socket(AF_SP, is_pub ? NN_SUB : is_thr ? NN_PULL : is_lat ? NN_PAIR : NN_REQ); CK(S); opts();
  if (is_pub) CK(nn_setsockopt(S, NN_SUB, NN_SUB_SUBSCRIBE, "", 0));
  CK(nn_bind(S, URL)); }
static void lib_client(void) { S = nn_socket(AF_SP, is_pub ? NN_PUB : is_thr ? NN_PUSH : is_lat ? NN_PAIR : NN_REP); CK(S); opts(); CK(nn_connect(S, URL)); }
static void tx(uint64_t seq) { void *m = nn_allocmsg(SZ, 0); memcpy(m, &seq, 8); CK(nn_send(S, &m, NN_MSG, 0)); }
static void txflush(void) {}
static uint64_t rx(void) { void *m; uint64_t q; int n = nn_recv(S, &m, NN_MSG, 0); CK(n); if ((size_t) n != SZ) die("len"); memcpy(&q, m, 8); nn_freemsg(m); return q; }

#elif defined(LIB_ZMQ)
#include <zmq.h>
static void *C, *S;
#define CK(x) do { if ((x) < 0) { fprintf(stderr, "%s: %s\n", #x, zmq_strerror(zmq_errno())); exit(2);} } while (0)
static void lib_server(void) { C = zmq_ctx_new(); S = zmq_socket(C, is_pub ? ZMQ_SUB : is_thr ? ZMQ_PULL : is_lat ? ZMQ_PAIR : is_ctx ? ZMQ_DEALER : ZMQ_REQ);
  if (is_pub) CK(zmq_setsockopt(S, ZMQ_SUBSCRIBE, "", 0));
  CK(zmq_bind(S, URL)); }
static void lib_client(void) { C = zmq_ctx_new(); S = zmq_socket(C, is_pub ? ZMQ_PUB : is_thr ? ZMQ_PUSH : is_lat ? ZMQ_PAIR : ZMQ_REP); CK(zmq_connect(S, URL)); }
/* a dealer writes and reads the empty frame before a request by itself */
static void delimiter(int out) { char c; if (is_ctx == 1) { if (out) CK(zmq_send(S, "", 0, ZMQ_SNDMORE)); else CK(zmq_recv(S, &c, 1, 0)); } }
static void tx(uint64_t seq) { delimiter(1); zmq_msg_t m; CK(zmq_msg_init_size(&m, SZ)); memcpy(zmq_msg_data(&m), &seq, 8); CK(zmq_msg_send(&m, S, 0)); }
static void txflush(void) {}
static uint64_t rx(void) { zmq_msg_t m; uint64_t q; delimiter(0); zmq_msg_init(&m); CK(zmq_msg_recv(&m, S, 0)); if (zmq_msg_size(&m) != SZ) die("len"); memcpy(&q, zmq_msg_data(&m), 8); zmq_msg_close(&m); return q; }

#elif defined(LIB_RAW) /* blocking sockets; 8-byte BE length prefix; BATCH=1 or 64 */
#ifndef BATCH
#define BATCH 1
#endif
#define BUFSZ (64 * 1024)
static int LFD, FD; static char *out, *big, rb[BUFSZ], ob[BUFSZ]; static size_t rh, rt, ol; static int on;
static void nodelay(int fd) { int o = 1; if (PORT && !getenv("NAGLE")) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &o, sizeof o);
  char *b = getenv("SOBUF"); if (b) { int v = atoi(b); setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &v, sizeof v); setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &v, sizeof v);} }
static void sa(struct sockaddr_storage *ss, socklen_t *l) {
  memset(ss, 0, sizeof *ss);
  if (PORT) { struct sockaddr_in *i = (void *) ss; i->sin_family = AF_INET; i->sin_port = htons(PORT); i->sin_addr.s_addr = htonl(INADDR_LOOPBACK); *l = sizeof *i; }
  else { struct sockaddr_un *u = (void *) ss; u->sun_family = AF_UNIX; strcpy(u->sun_path, PATH_); *l = sizeof *u; }
}
static void mk(void) { out = malloc(SZ + 8); big = malloc(SZ + 8); memset(out, 1, SZ + 8); memset(big, 0, SZ + 8); }
static void lib_server(void) { struct sockaddr_storage s; socklen_t l; sa(&s, &l); LFD = socket(s.ss_family, SOCK_STREAM, 0); int o = 1; setsockopt(LFD, SOL_SOCKET, SO_REUSEADDR, &o, sizeof o); nodelay(LFD); if (bind(LFD, (void *) &s, l)) die("bind"); listen(LFD, 4); mk(); }
static void accept_if(void) { if (!FD) { FD = accept(LFD, 0, 0); if (FD < 0) die("accept"); nodelay(FD); } }
static void lib_client(void) { struct sockaddr_storage s; socklen_t l; sa(&s, &l); mk(); FD = socket(s.ss_family, SOCK_STREAM, 0); nodelay(FD); if (connect(FD, (void *) &s, l)) die("connect"); }
static void wr(const char *p, size_t n) { while (n) { ssize_t k = write(FD, p, n); if (k <= 0) die("write"); p += k; n -= k; } }
static void txflush(void) { if (ol) { wr(ob, ol); ol = 0; on = 0; } }
static void tx(uint64_t seq) {
  accept_if();
  uint64_t be = __builtin_bswap64(SZ);
  if (is_thr && BATCH > 1 && SZ + 8 <= BUFSZ / 2) {
    if (ol + SZ + 8 > BUFSZ) txflush();
    memcpy(ob + ol, &be, 8); memcpy(ob + ol + 8, out, SZ); memcpy(ob + ol + 8, &seq, 8); ol += SZ + 8;
    if (++on >= BATCH) txflush();
    return;
  }
  memcpy(out, &be, 8); memcpy(out + 8, &seq, 8); wr(out, SZ + 8);
}
static void fill(void) { if (rh) { memmove(rb, rb + rh, rt - rh); rt -= rh; rh = 0; } ssize_t k = read(FD, rb + rt, BUFSZ - rt); if (k <= 0) die("read"); rt += k; }
static uint64_t rx(void) {
  accept_if();
  uint64_t be, q;
  while (rt - rh < 8) fill();
  memcpy(&be, rb + rh, 8); size_t n = __builtin_bswap64(be); if (n != SZ) die("len"); rh += 8;
  if (n <= BUFSZ) { while (rt - rh < n) fill(); memcpy(&q, rb + rh, 8); rh += n; if (rh == rt) rh = rt = 0; return q; }
  size_t have = rt - rh; memcpy(big, rb + rh, have); rh = rt = 0;
  while (have < n) { /* large: straight into the message buffer, tail+next header into rb */
    struct iovec v[2] = {{big + have, n - have}, {rb, BUFSZ}};
    ssize_t k = readv(FD, v, 2); if (k <= 0) die("readv");
    if ((size_t) k > n - have) { rt = k - (n - have); have = n; } else have += k;
  }
  memcpy(&q, big, 8); return q;
}
#endif

static int cmp32(const void *a, const void *b) { uint32_t x = *(uint32_t *) a, y = *(uint32_t *) b; return x < y ? -1 : x > y; }
static void pin(const char *env) { char *v = getenv(env); if (v) { cpu_set_t s; CPU_ZERO(&s); CPU_SET(atoi(v), &s); sched_setaffinity(0, sizeof s, &s); } }


#ifndef HAS_CONTEXTS
static uint64_t NEXT_TX, NEXT_RX;
static void contexts(void) { while (NEXT_TX < (uint64_t) IN_FLIGHT) tx(NEXT_TX++); }
/* one answer, and one more request */
static uint64_t answered(void) { if (rx() != NEXT_RX++) die("seq"); tx(NEXT_TX++); return NEXT_RX; }
#endif
static uint64_t until(uint64_t end) {
  uint64_t n = 0;
#ifdef HAS_CONTEXTS
  while (now() < end) usleep((end - now()) / 1000 + 1);
  n = answered();
#else
  while (now() < end) n = answered();
#endif
  return n;
}

static void play(void) {
  lib_client();
  if (is_thr) for (uint64_t i = 0;; i++) tx(i);
#ifdef HAS_CONTEXTS
  if (is_ctx) { contexts(); for (;;) pause(); }
#endif
  for (;;) { uint64_t q = rx(); tx(q); txflush(); }
}

int main(int argc, char **argv) {
  if (argc < 4) { fprintf(stderr, "usage: %s thr|lat|rr|pub|ctx:N ipc|tcp SIZE [warm_ms] [meas_ms] [URL]\n", argv[0]); return 2; }
  MODE = argv[1]; TR = argv[2]; SZ = strtoul(argv[3], 0, 10);
  uint64_t warm = (argc > 4 ? atoi(argv[4]) : 150) * 1000000ull, meas = (argc > 5 ? atoi(argv[5]) : 700) * 1000000ull;
  is_pub = !strcmp(MODE, "pub"); is_thr = is_pub || !strcmp(MODE, "thr"); is_lat = !strcmp(MODE, "lat");
  if (!strncmp(MODE, "ctx:", 4)) { is_ctx = 1; IN_FLIGHT = atoi(MODE + 4); }
  is_rr = is_ctx || !strcmp(MODE, "rr");
  if (!(is_thr || is_lat || is_rr) || IN_FLIGHT < 1) { fprintf(stderr, "unknown mode %s\n", MODE); return 2; }
  signal(SIGPIPE, SIG_IGN);
  if (argc > 6) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); pin("PIN_CHILD");
    snprintf(URL, sizeof URL, "%s", argv[6]);
    if (sscanf(URL, "tcp://127.0.0.1:%d", &PORT) != 1 && sscanf(URL, "ipc://%107s", PATH_) != 1) die("url");
    if (is_ctx) is_ctx = 2;
    play();
  }
  /* below the ports that the kernel gives out by itself */
  if (!strcmp(TR, "tcp")) { PORT = 20000 + getpid() % 12000; snprintf(URL, sizeof URL, "tcp://127.0.0.1:%d", PORT); }
  else { snprintf(PATH_, sizeof PATH_, "%s/sp-figures.%d.sock", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", getpid()); snprintf(URL, sizeof URL, "ipc://%s", PATH_); }
  int pp[2]; if (pipe(pp)) die("pipe");
  pid_t ch = fork();
  if (ch == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); pin("PIN_CHILD");
    char c; if (read(pp[0], &c, 1) != 1) _exit(3);
    char *other = getenv("SPPERF_PEER");
    if (other) { /* its standard input ends with the parent */
      dup2(pp[0], 0); close(pp[1]);
      execl(other, other, MODE, TR, argv[3], "0", "0", URL, (char *) 0); die(other);
    }
    if (is_ctx) is_ctx = 2;
    play();
  }
  pin("PIN_PARENT");
  close(pp[0]);
  lib_server();
  if (write(pp[1], "x", 1) != 1) die("pipe");
  clockid_t cc; if (clock_getcpuclockid(ch, &cc)) die("cpuclock");
  uint64_t n = 0, t0, t1, c0, c1, k0, k1, el; double mean = 0, p50 = 0, p99 = 0;
  uint64_t lost = 0;
  if (is_ctx) {
    contexts();
    uint64_t first = until(now() + 50000000ull + warm);
    c0 = cpu(CLOCK_PROCESS_CPUTIME_ID); k0 = cpu(cc); t0 = now();
    n = until(t0 + meas) - first; t1 = now();
    c1 = cpu(CLOCK_PROCESS_CPUTIME_ID); k1 = cpu(cc);
  } else if (is_pub) { /* what arrives counts; numbers rise */
    uint64_t next = 0, q, first, w0;
#define ONE do { if ((q = rx()) < next) die("seq"); next = q + 1; } while (0)
    ONE; w0 = now();
    do { for (int i = 0; i < 64; i++) ONE; } while (now() - w0 < warm);
    c0 = cpu(CLOCK_PROCESS_CPUTIME_ID); k0 = cpu(cc); t0 = now(); first = next;
    do { for (int i = 0; i < 64; i++) ONE; n += 64; t1 = now(); } while (t1 - t0 < meas);
    c1 = cpu(CLOCK_PROCESS_CPUTIME_ID); k1 = cpu(cc); lost = next - first - n;
  } else if (is_thr) {
    int step = SZ >= 16384 ? 1 : SZ >= 1024 ? 16 : 64;
    uint64_t exp = 0, w0;
    if (rx() != exp++) die("seq");
    w0 = now();
    do { for (int i = 0; i < step; i++) if (rx() != exp++) die("seq"); } while (now() - w0 < warm);
    c0 = cpu(CLOCK_PROCESS_CPUTIME_ID); k0 = cpu(cc); t0 = now();
    do { for (int i = 0; i < step; i++) if (rx() != exp++) die("seq"); n += step; t1 = now(); } while (t1 - t0 < meas);
    c1 = cpu(CLOCK_PROCESS_CPUTIME_ID); k1 = cpu(cc);
  } else {
    size_t cap = 1 << 20; uint32_t *v = malloc(cap * 4); memset(v, 0, cap * 4); uint64_t seq = 0, w0 = now();
    usleep(50000);
    do { tx(seq); txflush(); if (rx() != seq) die("seq"); seq++; } while (now() - w0 < warm + 50000000ull);
    c0 = cpu(CLOCK_PROCESS_CPUTIME_ID); k0 = cpu(cc); t0 = t1 = now();
    do { uint64_t a = t1; tx(seq); txflush(); if (rx() != seq) die("seq"); seq++; t1 = now(); v[n++] = (uint32_t) (t1 - a); } while (t1 - t0 < meas && n < cap);
    c1 = cpu(CLOCK_PROCESS_CPUTIME_ID); k1 = cpu(cc);
    mean = (double) (t1 - t0) / n / 1000; qsort(v, n, 4, cmp32); p50 = v[n / 2] / 1000.0; p99 = v[(size_t) (n * 0.99)] / 1000.0;
  }
  el = t1 - t0;
  kill(ch, SIGKILL); waitpid(ch, 0, 0);
  if (PATH_[0]) unlink(PATH_);
  printf("{\"mode\":\"%s\",\"tr\":\"%s\",\"size\":%zu,\"n\":%llu,\"sec\":%.4f,\"rate\":%.1f,\"cpu_parent_ns\":%.1f,\"cpu_child_ns\":%.1f,\"mean_us\":%.3f,\"p50_us\":%.3f,\"p99_us\":%.3f,\"lost\":%.4f}\n",
    MODE, TR, SZ, (unsigned long long) n, el / 1e9, n / (el / 1e9), (double) (c1 - c0) / n, (double) (k1 - k0) / n, mean, p50, p99, (double) lost / (lost + n));
  fflush(stdout); _exit(0);
}
