import assert from "node:assert/strict";
import { test } from "node:test";
import { Plugin, RefusedError, rows, Tuple, type Exec, type Output, type RunSource } from "../src/index.js";
import { PULL } from "../src/sp.js";
import { BATCH, Listener, Script } from "./script.js";

const withSource = (run: RunSource): Plugin => new Plugin("car").source("source", () => run);
const withSink = (collect: (result: unknown) => void | Promise<void>): Plugin => new Plugin("car").sink("sink", () => ({ collect }));
const withFunction = (exec: Exec): Plugin => new Plugin("car").function("function", exec);
const echo: Exec = ([value]) => value;

/** Sends n: 1, 2, … until it is stopped. */
async function* endless(): AsyncGenerator<object> {
  for (let n = 1; ; n++) yield { n };
}

function gate(): { opened: Promise<void>; open: () => void } {
  let open!: () => void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

test("hello names version, token and symbols", async () => {
  const script = await Script.run(withSource(endless).function("rank", echo).function("all", echo, { aggregate: true }));
  const hello = await script.welcome();
  assert.deepEqual(hello, {
    ...{ type: "hello", versions: [1], token: "secret", plugin: "car", sdk: "mangrove-node/0.1.0", encodings: ["json"] },
    symbols: { sources: ["source"], sinks: [], functions: ["rank", { name: "all", aggregate: true }] },
  });
  await script.finish();
});

test("a refusal ends the plugin", async () => {
  const script = await Script.run(withSource(endless));
  const control = await script.listener.accept();
  await control.write({ type: "refused", reason: "wrong token", versions: [1] });
  await assert.rejects(script.ended, new RefusedError("wrong token"));
});

test("requests that can't be met are answered", async () => {
  const script = await Script.play(withSource(endless));
  await script.control.write({ type: "news", of: "later versions" });
  const start = { type: "start", id: 1, use: 1, kind: "source", symbol: "source" };
  for (const [request, error] of [
    [{ type: "dance", id: 1 }, /dance/],
    [{ ...start, symbol: "other" }, /other/],
    [{ ...start, kind: "dream" }, /dream/],
    [{ ...start, use: undefined }, /use/],
    [{ ...start, config: 7 }, /config/],
    [{ ...start, address: "ipc:///nowhere" }, /nowhere/],
    [{ type: "stop", id: 1, use: 9 }, /9/],
    [{ type: "validate", id: 1, symbol: "none" }, /none/],
  ] as const) {
    assert.match((await script.ask(request))["error"], error);
  }
  assert.deepEqual(await script.ask({ type: "ping", id: 9 }), { type: "answer", id: 9 });
  await script.finish();
});

test("garbage on control is survived, up to ten in a row", async () => {
  const script = await Script.play(withFunction(echo));
  const garbage = ["", "{", "null", "[1]", "\uffff", '{"type":7}', '{"type":"answer","id":99}', '{"type":"stop"}', "[".repeat(100_000)];
  for (let round = 0; round < 2; round++) {
    for (const message of garbage) await script.control.connection.send(message);
    assert.equal((await script.ask({ type: "ping", id: 1 }))["error"], undefined);
  }
  for (let count = 0; count < 10; count++) await script.control.connection.send("garbage");
  await script.welcome();
  assert.equal((await script.ask({ type: "ping", id: 1 }))["error"], undefined);
  await script.finish();
});

test("a source batches by itself, lets pings through, and drains", async () => {
  let sent = 0;
  const many = gate();
  const script = await Script.play(
    withSource(async (output) => {
      for (;;) {
        await output.send({ n: sent + 1 });
        if (++sent === 3 * BATCH) many.open();
      }
    }),
  );
  const data = await script.start("source");
  await many.opened;
  assert.equal((await script.ask({ type: "ping", id: 1 }))["error"], undefined);
  const stopped = script.ask({ type: "stop", id: 2, use: 4, timeout: 20_000 });
  let seq = 0;
  let n = 0;
  for await (const message of data.messages) {
    const batch = JSON.parse(message.toString()) as { seq: number; tuples: { n: number }[] };
    assert.equal(batch.seq, ++seq);
    assert.ok(batch.tuples.length <= BATCH);
    for (const tuple of batch.tuples) assert.equal(tuple.n, ++n);
  }
  assert.deepEqual((await stopped)["value"], { seq });
  assert.equal(n, sent);
  assert.ok(n / seq > 10, `${n} tuples in ${seq} batches`);
  await script.finish();
});

test("meta, offset, errors and the end keep their order", async () => {
  const next = gate();
  const script = await Script.play(
    withSource(async function* (output) {
      yield new Tuple({ ключ: "値" }, { meta: { a: 1 }, offset: 7 });
      await next.opened;
      await output.report(new Error("näh"));
      await assert.rejects(output.send([1]), /JSON object/);
      await assert.rejects(output.send({ big: 1n }));
      await assert.rejects(output.send({ big: "x".repeat(33 << 20) }), /at most/);
      throw new Error("gone");
    }),
  );
  const data = await script.start("source");
  assert.deepEqual(await data.read(), { seq: 1, tuples: [{ ключ: "値" }], meta: [{ a: 1 }], offset: 7 });
  next.open();
  assert.deepEqual(await data.read(), { seq: 2, error: "näh" });
  assert.deepEqual(await data.read(), { seq: 3, end: true, error: "gone" });
  assert.deepEqual((await script.ask({ type: "stop", id: 5, use: 4, timeout: 5000 }))["value"], { seq: 3 });
  await script.finish();
});

test("offsets come back and are committed", async () => {
  let committed!: (offset: unknown) => void;
  const commit = new Promise((resolve) => (committed = resolve));
  const script = await Script.play(
    new Plugin("car").source("source", (_, context) => {
      assert.deepEqual([context.offset, context.dataSource], [{ at: 3 }, "tópico"]);
      const run = async (output: Output): Promise<void> => {
        await output.send({}, { offset: { at: 4 } });
        await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
      };
      return { run, commit: committed };
    }),
  );
  const data = await script.start("source", { offset: { at: 3 }, dataSource: "tópico" });
  await data.read();
  await script.control.write({ type: "commit", use: 4, seq: 1 });
  assert.deepEqual(await commit, { at: 4 });
  await script.finish();
});

test("a hanging source is given up", async () => {
  const script = await Script.play(withSource(() => new Promise(() => {})));
  await script.start("source");
  assert.match((await script.ask({ type: "stop", id: 5, use: 4, timeout: 50 }))["error"], /does not end/);
  await script.finish();
});

test("sixteen mebibytes go both ways", async () => {
  const script = await Script.play(withFunction(echo));
  const data = await script.start("function");
  const text = "ä".repeat(8 << 20);
  await data.write({ context: {}, timeout: 60_000, calls: [[1, [text]]] });
  assert.ok((await data.read())["results"][0][1] === text);
  await script.finish();
});

test("a sink acknowledges in order and names what failed", async () => {
  const script = await Script.play(
    withSink(async (result) => {
      if (rows(result as never)[0]?.["a"] === "bad") throw new Error("bäd");
    }),
  );
  const data = await script.start("sink", { ack: true });
  await data.write({ seq: 1, results: [[{ a: "good" }], { a: "bad" }] });
  assert.deepEqual(await script.control.next("ack"), { type: "ack", use: 4, seq: 1, errors: [[1, "bäd"]] });
  await data.write({ seq: 2, results: [] });
  assert.deepEqual(await script.control.next("ack"), { type: "ack", use: 4, seq: 2 });
  await script.finish();
});

test("a flood of results is collected before the stop", async () => {
  let collected = 0;
  const script = await Script.play(withSink(() => void collected++));
  const data = await script.start("sink", { ack: true });
  const results = Array.from({ length: 1000 }, () => [{ a: 1 }]);
  const batches = 100;
  const flood = (async () => {
    for (let seq = 1; seq <= batches; seq++) await data.write({ seq, results });
  })();
  await script.control.write({ type: "stop", id: 5, use: 4, timeout: 20_000, seq: batches });
  let last = 0;
  for (;;) {
    const message = await script.control.read();
    if (message["type"] === "answer") break;
    assert.equal(message["type"], "ack");
    assert.ok(message["seq"] > last);
    last = message["seq"];
  }
  await flood;
  assert.equal(last, batches);
  assert.equal(collected, batches * 1000);
  await script.finish();
});

test("garbage on sink data is an error of the use", async () => {
  const script = await Script.play(
    withSink(() => {
      throw new Error("no");
    }),
  );
  const data = await script.start("sink");
  for (const message of ["", "[]", '{"results":[]}', '{"seq":-1}', '{"seq":1,"results":7}', "\0", '{"a":'.repeat(100_000)]) {
    await data.connection.send(message);
    assert.match((await script.control.next("error"))["error"], /sink data/);
  }
  await data.write({ seq: 1, results: [{}] });
  assert.deepEqual(await script.control.next("error"), { type: "error", use: 4, error: "no" });
  await script.finish();
});

test("a shutdown still collects what was sent", async () => {
  const hold = gate();
  let collected = 0;
  let closed = false;
  const script = await Script.play(
    new Plugin("car").sink("sink", () => ({ collect: () => hold.opened.then(() => void collected++), close: () => void (closed = true) })),
  );
  const data = await script.start("sink");
  for (let seq = 1; seq <= 3; seq++) await data.write({ seq, results: [{}] });
  await script.control.write({ type: "shutdown", timeout: 20_000 });
  hold.open();
  await script.ended;
  assert.equal(collected, 3);
  assert.ok(closed);
});

test("a slow call doesn't hold others, and can be cancelled", async () => {
  const release = gate();
  const script = await Script.play(
    withFunction(async ([text], context) => {
      if (text === "slow") await release.opened;
      if (text === "cancelled") {
        await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
        release.open();
      }
      if (text === "throw") throw new Error("oh");
      return text;
    }),
  );
  const data = await script.start("function");
  const context = { ruleId: "rule1", opId: "op", instanceId: 0, funcId: 0 };
  await data.write({ context, timeout: 0, calls: [[1, ["slow"]], [2, ["cancelled"]]] });
  await data.write({ context, timeout: 60_000, calls: [[3, ["fast"]]] });
  assert.deepEqual(await data.read(), { results: [[3, "fast"]] });
  await data.write({ context, timeout: 60_000, calls: [[4, ["throw"]]] });
  assert.deepEqual(await data.read(), { results: [], errors: [[4, "oh"]] });
  await data.write({ cancel: [2, 77, "x"] });
  assert.deepEqual(await data.read(), { results: [[1, "slow"]] });
  await script.finish();
});

test("a deadline aborts a call's signal", async () => {
  const given = gate();
  const script = await Script.play(
    withFunction(async (_, context) => {
      await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
      given.open();
    }),
  );
  const data = await script.start("function");
  await data.write({ context: {}, timeout: 1, calls: [[1, []]] });
  await given.opened;
  await script.finish();
});

test("calls that nobody waits for are not begun", async () => {
  const made: unknown[] = [];
  const script = await Script.play(
    withFunction(([id, milliseconds]) => {
      made.push(id);
      const end = performance.now() + Number(milliseconds);
      while (performance.now() < end);
      return id;
    }),
  );
  const data = await script.start("function");
  const calls = (first: number, count: number, milliseconds: number): unknown[] =>
    Array.from({ length: count }, (_, index) => [first + index, [first + index, milliseconds]]);
  await data.write({ context: {}, timeout: 200, calls: calls(1, 20, 300) });
  await data.write({ context: {}, timeout: 60_000, calls: calls(21, 5, 30) });
  // Of others than wait nothing is kept.
  const unknown = Array.from({ length: 100 }, (_, index) => 100 + index);
  await data.write({ cancel: ["x", ...unknown, 25] });
  await data.write({ context: {}, timeout: 0, calls: calls(26, 1, 0) });
  const found = new Set<number>();
  while (!found.has(26)) for (const [id] of (await data.read())["results"]) found.add(id);
  // The first is late already where this machine is busy.
  const early = made.filter((id) => Number(id) <= 20);
  assert.ok(early.length <= 1, String(early));
  assert.deepEqual(made.slice(early.length), [21, 22, 23, 24, 26]);
  // Nothing is left open.
  assert.deepEqual(await script.ask({ type: "stop", id: 7, use: 4, timeout: 5000 }), { type: "answer", id: 7 });
  await script.finish();
});

test("many calls are in flight together", async () => {
  const calls = 1000;
  const all = gate();
  let waiting = 0;
  const script = await Script.play(
    withFunction(async ([value]) => {
      if (++waiting === calls) all.open();
      await all.opened;
      return value;
    }),
  );
  const data = await script.start("function");
  for (let id = 0; id < calls; id++) await data.write({ context: {}, timeout: 60_000, calls: [[id, [id]]] });
  const seen = new Set<number>();
  while (seen.size < calls) {
    for (const [id, value] of (await data.read())["results"]) {
      assert.equal(id, value);
      seen.add(id);
    }
  }
  await script.finish();
});

test("garbage on function data is an error of the use", async () => {
  const script = await Script.play(withFunction(echo));
  const data = await script.start("function");
  for (const message of ["", "7", '{"calls":[[1]]}', '{"calls":[["x",[]]]}', '{"calls":[[1,{}]]}', '{"cancel":"all"}', '{"calls":[[1,[]]],"context":{"ruleId":7}}']) {
    await data.connection.send(message);
    assert.match((await script.control.next("error"))["error"], /function data/);
  }
  await data.write({ calls: [[1, []]] });
  assert.deepEqual(await data.read(), { results: [[1, null]] });
  await script.finish();
});

test("validation is asked for and answered", async () => {
  const validate = (args: unknown[]): void => {
    if (args[0] !== "ä.b") throw new Error(`not ${String(args[0])}`);
  };
  const script = await Script.play(new Plugin("car").function("function", echo, { validate }));
  assert.equal((await script.ask({ type: "validate", id: 1, symbol: "function", args: ["ä.b"] }))["error"], undefined);
  assert.equal((await script.ask({ type: "validate", id: 2, symbol: "function", args: [7] }))["error"], "not 7");
  await script.finish();
});

test("state, logs and metrics reach the host", async () => {
  const script = await Script.play(
    withFunction(async (_, context) => {
      context.log.warn("careful", { a: 1n, b: new Error("x") });
      context.counter("calls").add(2);
      context.counter("calls").add(3);
      await assert.rejects(context.state.put("k", { ü: 1 }), /full/);
      return context.state.add("n", 2);
    }),
  );
  const data = await script.start("function");
  await data.write({ context: { ruleId: "rule1" }, timeout: 60_000, calls: [[1, []]] });
  assert.deepEqual(await script.control.next("log"), {
    ...{ type: "log", level: "warn", message: "careful", use: 4, fields: { ruleId: "rule1", a: "1", b: "x" } },
  });
  assert.deepEqual(await script.control.next("put"), { type: "put", id: 1, use: 4, rule: "rule1", key: "k", value: { ü: 1 } });
  await script.control.write({ type: "answer", id: 1, error: "full" });
  assert.deepEqual(await script.control.next("add"), { type: "add", id: 2, use: 4, rule: "rule1", key: "n", by: 2 });
  assert.deepEqual(await script.control.next("metric"), { type: "metric", use: 4, name: "calls", kind: "counter", value: 5 });
  await script.control.write({ type: "answer", id: 2, value: 9 });
  assert.deepEqual(await data.read(), { results: [[1, 9]] });
  await script.finish();
});

test("a broken control connection drops all uses and comes back", async () => {
  const dropped = gate();
  const script = await Script.play(
    new Plugin("car").source("source", (_, context) => () => new Promise<void>((resolve) => context.signal.addEventListener("abort", () => resolve(dropped.open())))),
  );
  const data = await script.start("source");
  script.control.connection.close();
  await dropped.opened;
  assert.equal((await data.messages.next()).done, true);
  assert.equal((await script.welcome())["token"], "secret");
  await script.start("source");
  await script.finish();
});

test("a broken data connection is dialled again", async () => {
  const script = await Script.play(withSource(endless));
  const listener = await Listener.open(PULL);
  await script.control.write({ type: "start", id: 1, use: 4, kind: "source", symbol: "source", address: listener.address });
  const first = await listener.accept();
  await first.read();
  first.connection.close();
  assert.ok((await (await listener.accept()).read())["seq"] > 1);
  await script.finish();
});

test("start and stop over and over", async () => {
  const script = await Script.play(withSource(endless).function("function", echo));
  for (let round = 0; round < 20; round++) {
    const tuples = await script.start("source");
    await tuples.read();
    const stopped = script.ask({ type: "stop", id: 5, use: 4, timeout: 5000 });
    for await (const message of tuples.messages) void message;
    assert.equal((await stopped)["error"], undefined);
    const data = await script.start("function");
    assert.equal((await script.ask({ type: "stop", id: 6, use: 4, timeout: 5000 }))["error"], undefined);
    assert.equal((await data.messages.next()).done, true);
  }
  await script.finish();
});
