import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createServer, type TLSSocket } from "node:tls";
import { fileURLToPath } from "node:url";
import { Connection, PAIR } from "../src/sp.js";
import { End, LIMIT, Listener, Script } from "./script.js";
import { cert, key } from "./tls.js";

function start(environment: Record<string, string>): ChildProcess {
  const program = fileURLToPath(new URL("./program.js", import.meta.url));
  const env = { PATH: process.env["PATH"], MANGROVE_TOKEN: "secret", MANGROVE_PLUGIN: "car", ...environment };
  return spawn(process.execPath, [program], { env, stdio: ["ignore", "ignore", "pipe"] });
}

const status = async (child: ChildProcess): Promise<unknown> => (await once(child, "exit"))[0];

test("a program without a host ends with status 2", async () => {
  const child = start({});
  let said = "";
  child.stderr?.on("data", (chunk) => (said += String(chunk)));
  assert.equal(await status(child), 2);
  assert.match(said, /MANGROVE_CONTROL/);
});

test("a refusal is status 1", async () => {
  const listener = await Listener.open(PAIR);
  const child = start({ MANGROVE_CONTROL: listener.address });
  const ended = status(child);
  const control = await listener.accept();
  assert.equal((await control.next("hello"))["plugin"], "car");
  await control.write({ type: "refused", reason: "no" });
  assert.equal(await ended, 1);
});

for (const end of ["shutdown", "SIGTERM"]) {
  test(`${end} ends the program with status 0 when everything is collected`, async () => {
    const script = new Script(await Listener.open(PAIR));
    const child = start({ MANGROVE_CONTROL: script.listener.address });
    const ended = status(child);
    await script.welcome();
    const data = await script.start("sink", { ack: true });
    await data.write({ seq: 1, results: [{}] });
    if (end === "SIGTERM") child.kill("SIGTERM");
    else await script.control.write({ type: "shutdown", timeout: 5000 });
    assert.equal((await script.control.next("ack"))["seq"], 1);
    assert.equal(await ended, 0);
  });
}

test("a plugin trusts the authority of the environment", async () => {
  const server = createServer({ cert, key }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const authority = join(mkdtempSync(join(tmpdir(), "ca-")), "ca.pem");
  writeFileSync(authority, cert);
  const accepted = once(server, "secureConnection");
  const child = start({ MANGROVE_CONTROL: `tls+tcp://127.0.0.1:${(server.address() as AddressInfo).port}`, MANGROVE_CA: authority });
  const ended = status(child);
  const [stream] = (await accepted) as [TLSSocket];
  const control = new End(await Connection.accept(stream, { protocol: PAIR, limit: LIMIT, typed: false }));
  assert.equal((await control.next("hello"))["token"], "secret");
  await control.write({ type: "refused", reason: "enough" });
  assert.equal(await ended, 1);
  server.close();
});
