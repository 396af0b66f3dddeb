import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { TestHost } from "mangrove-sdk/testing";
import { plugin } from "../src/plugin.js";

test("the counter counts, reports and ends", async () => {
  const host = await TestHost.start(plugin());
  const source = await host.source("counter_node", { config: { count: 5, size: 3, fail_at: 4 }, dataSource: "topic", offset: 2 });
  const tuple = (n: number) => ({ tuple: { n, pid: process.pid, pad: "xxx" }, meta: { source: "topic" }, offset: n });
  assert.deepEqual(await source.next(), tuple(3));
  assert.deepEqual(await source.next(), { error: "told to fail at 4" });
  assert.deepEqual(await source.next(), tuple(5));
  assert.equal(await source.next(), undefined);
  await host.stop();
});

test("a wrong configuration is an error", async () => {
  const host = await TestHost.start(plugin());
  await assert.rejects(host.source("counter_node", { config: { count: "many" } }), /count/);
  await assert.rejects(host.source("counter_node", { config: { count: -1 } }), /count/);
  await host.stop();
});

test("keep writes lines, and fails when told", async () => {
  const folder = await mkdtemp(join(tmpdir(), "samples-"));
  const path = join(folder, "kept.jsonl");
  const host = await TestHost.start(plugin());
  const sink = await host.sink("keep_node", { config: { path, fail: "bad" } });
  assert.deepEqual(await sink.collect([{ a: "ä" }], [{ a: "bad" }], [{ a: "c" }]), [[1, "told to fail"]]);
  await sink.stop();
  assert.equal(await readFile(path, "utf8"), '[{"a":"ä"}]\n[{"a":"c"}]\n');
  await host.stop();
  await rm(folder, { recursive: true });
});

test("the functions", async () => {
  const host = await TestHost.start(plugin());
  assert.deepEqual(await host.call("rule1", "echo_node", { ü: [1] }), { ü: [1] });
  assert.equal(await host.call("rule1", "slow_node", 1, "x"), "x");
  await assert.rejects(host.call("rule1", "fail_node", "no"), /^Error: no$/);
  await assert.rejects(host.call("rule1", "fail_node", "panic"), /not a function/);
  assert.equal(await host.call("rule1", "total_node", [1, 2.5, null, "x"]), 3.5);
  assert.equal(await host.call("rule1", "tally_node", "k"), 1);
  assert.equal(await host.call("rule1", "tally_node", "k"), 2);
  assert.equal(host.state("tally_node", "rule1", "k"), 2);
  await assert.rejects(host.validate("echo_node"), /echo takes 1 argument/);
  await host.validate("echo_node", "a.b");
  await host.stop();
});
