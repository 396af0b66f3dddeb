import assert from "node:assert/strict";
import { mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { TestHost } from "mangrove-sdk/testing";
import { plugin } from "./plugin.js";

test("numbers become lines", async () => {
  const host = await TestHost.start(plugin());
  const path = join(await mkdtemp(join(tmpdir(), "{{name}}-")), "lines");
  const source = await host.source("{{symbol}}_numbers", { config: { interval: 0, count: 2 } });
  const sink = await host.sink("{{symbol}}_lines", { config: { path } });
  for (let n = 1; n <= 2; n++) {
    const event = await source.next();
    assert.deepEqual(event?.tuple, { n });
    await sink.collect([event.tuple]);
  }
  await sink.stop();
  await host.stop();
  assert.equal(await readFile(path, "utf8"), '[{"n":1}]\n[{"n":2}]\n');
});

test("texts are shouted", async () => {
  const host = await TestHost.start(plugin());
  assert.equal(await host.call("rule1", "{{symbol}}_shout", "hello"), "HELLO");
  await assert.rejects(host.call("rule1", "{{symbol}}_shout", 7), /a text/);
  await assert.rejects(host.validate("{{symbol}}_shout"), /1 argument/);
  await host.stop();
});
