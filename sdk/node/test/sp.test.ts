import assert from "node:assert/strict";
import * as net from "node:net";
import { test } from "node:test";
import { Backoff, resolveAddress } from "../src/link.js";
import { Connection, Decoder, hostAndPort, PAIR, PULL, PUSH } from "../src/sp.js";
import { Listener } from "./script.js";

test("any split of the stream gives the same messages", () => {
  const stream = Buffer.from([1, 0, 0, 0, 0, 0, 0, 0, 2, 97, 98, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 99]);
  for (let first = 0; first <= stream.length; first++) {
    for (let second = first; second <= stream.length; second++) {
      const decoder = new Decoder(10, true);
      const parts = [stream.subarray(0, first), stream.subarray(first, second), stream.subarray(second)];
      const messages = parts.flatMap((part) => [...decoder.push(part)].map(String));
      assert.deepEqual(messages, ["ab", "", "c"]);
    }
  }
});

test("broken frames are errors before anything is kept", () => {
  for (const frame of [[2, 0, 0, 0, 0, 0, 0, 0, 0], [1, 255, 255, 255, 255, 255, 255, 255, 255], [1, 0, 0, 0, 0, 0, 0, 0, 11]]) {
    assert.throws(() => [...new Decoder(10, true).push(Buffer.from(frame))]);
  }
});

for (const kind of ["ipc", "tcp"] as const) {
  test(`messages of every size arrive whole over ${kind}`, async () => {
    const listener = await Listener.open(PULL, kind);
    const accepted = listener.accept();
    const push = await Connection.dial(listener.address, PUSH, 10, new AbortController().signal);
    const pull = await accepted;
    for (const size of [0, 1, 8, 9, 65_536, 1 << 20]) {
      const message = "ä".repeat(size);
      const sent = push.send(message);
      assert.equal(String((await pull.messages.next()).value), message);
      await sent;
    }
    push.close();
    assert.equal((await pull.messages.next()).done, true);
  });
}

test("a foreign or silent peer is refused", async () => {
  for (const answer of ["HTTP/1.1", "\0SP\0\0\x10\0\0", "\0SP\0\0\x51\0\x01", "\0SP"]) {
    const server = net.createServer((stream) => stream.on("error", () => {}).end(answer, "latin1"));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = `tcp://127.0.0.1:${(server.address() as net.AddressInfo).port}`;
    await assert.rejects(Connection.dial(address, PUSH, 10, new AbortController().signal), /handshake/);
    server.close();
  }
  const connected = new AbortController();
  const silent = net.createServer(() => connected.abort());
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
  await assert.rejects(Connection.dial(`tcp://127.0.0.1:${(silent.address() as net.AddressInfo).port}`, PAIR, 10, connected.signal));
  silent.close();
});

test("addresses", () => {
  assert.equal(resolveAddress("tls+tcp://[::1]:70", "tls+tcp://*:80"), "tls+tcp://[::1]:80");
  assert.equal(resolveAddress("tcp://host:70", "tcp://other:80"), "tcp://other:80");
  assert.deepEqual(hostAndPort("[::1]:80"), { host: "::1", port: 80 });
  for (const wrong of ["", "host", "host:0", "host:65536", ":80"]) assert.throws(() => hostAndPort(wrong));
});

test("back-off grows to five seconds, and begins again", () => {
  const backoff = new Backoff();
  assert.deepEqual(Array.from({ length: 8 }, () => backoff.next(0)), [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
  assert.equal(backoff.next(1), 2500);
  backoff.reset();
  assert.equal(backoff.next(0), 100);
});
