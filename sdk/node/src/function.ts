/** Functions: calls run together, results go back as they come, many in one message. */
import { createLogger, createState, type CallContext, type Logger, type Metrics, type State, type Uplink } from "./context.js";
import type { Channel } from "./link.js";
import { ContractError, errorText, excerpt, list, milliseconds, parseObject, text, unsigned, type Fields } from "./message.js";
import type { Exec } from "./plugin.js";
import { aborted, type Owner, type Run } from "./session.js";
import { LimitError } from "./sp.js";

const BATCH = 256 << 10; // UTF-16 units, about bytes
const ENVELOPE = 128;
const LONGEST = 3_600_000;
const TURN = 20; // milliseconds of calls without a break

/** The calls of one message that are to be made, from `next` on. */
interface Group {
  readonly shared: Shared;
  readonly calls: [number, unknown[]][];
  next: number;
}

/** What the calls of one message share. */
class Shared {
  readonly ruleId: string;
  readonly opId: string;
  readonly instanceId: number;
  readonly funcId: number;
  readonly calls = new Set<Call>();
  timer: NodeJS.Timeout | undefined;
  #log: Logger | undefined;
  #state: State | undefined;

  constructor(
    readonly run: FunctionRun,
    fields: Fields,
    /** When nobody waits for the calls any more, as `performance.now` counts. */
    readonly deadline: number,
  ) {
    this.ruleId = text(fields, "ruleId");
    this.opId = text(fields, "opId");
    this.instanceId = unsigned(fields, "instanceId", 0);
    this.funcId = unsigned(fields, "funcId", 0);
  }

  get log(): Logger {
    return (this.#log ??= createLogger(this.run.uplink, this.run.use, { ruleId: this.ruleId }));
  }

  get state(): State {
    return (this.#state ??= createState(this.run.uplink, this.run.use, this.ruleId));
  }
}

/** One call; its parts are made when they are asked for, because most calls need none. */
class Call implements CallContext {
  #abort: AbortController | undefined;
  given = false; // up: nobody waits for the result

  constructor(private readonly shared: Shared) {}

  get symbol(): string {
    return this.shared.run.symbol;
  }
  get ruleId(): string {
    return this.shared.ruleId;
  }
  get opId(): string {
    return this.shared.opId;
  }
  get instanceId(): number {
    return this.shared.instanceId;
  }
  get funcId(): number {
    return this.shared.funcId;
  }
  get log(): Logger {
    return this.shared.log;
  }
  get state(): State {
    return this.shared.state;
  }
  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.given) this.#abort.abort();
    return this.#abort.signal;
  }
  counter(name: string): { add(by: number): void } {
    return this.shared.run.metrics.counter(name);
  }
  gauge(name: string): { set(value: number): void } {
    return this.shared.run.metrics.gauge(name);
  }

  giveUp(): void {
    this.given = true;
    this.#abort?.abort(new Error("nobody waits for the result any more"));
  }
}

/** A function at work. */
export class FunctionRun implements Run {
  readonly #done: Promise<void>;
  readonly #running = new Map<number, Call>();
  #groups: Group[] = [];
  readonly #planned = new Set<number>(); // the calls of groups that are to be made and were not cancelled
  #open = 0; // calls that are to be made, that run, or whose results are not written
  #waiting: (() => void)[] = [];
  #results: { encoded: string; failed: boolean }[] = [];
  #flushing = false;
  #stopping = false;

  constructor(
    private readonly owner: Owner,
    readonly uplink: Uplink,
    readonly use: number,
    readonly metrics: Metrics,
    readonly symbol: string,
    private readonly exec: Exec,
    private readonly channel: Channel,
  ) {
    this.#done = this.#run();
  }

  async #run(): Promise<void> {
    for await (const message of this.channel.messages((error) => this.#report(error))) {
      if (this.#stopping) break;
      while (this.#open >= this.owner.options.callLimit && !this.channel.closed) await this.#change();
      try {
        this.#handle(parseObject(message));
      } catch (error) {
        await this.owner.room();
        this.#report(`function data ${excerpt(message)}: ${errorText(error)}`);
      }
    }
  }

  #report(error: unknown): void {
    this.owner.send({ type: "error", use: this.use, error: errorText(error) });
  }

  /** Waits until a result was written. */
  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #handle(data: Fields): void {
    const calls = list(data, "calls");
    if (calls.length > this.owner.limits.batch) throw new ContractError(`${calls.length} calls, expected at most ${this.owner.limits.batch}`);
    for (const id of list(data, "cancel") as number[]) {
      this.#running.get(id)?.giveUp();
      this.#planned.delete(id);
    }
    if (calls.length === 0) return;
    for (const call of calls) {
      if (!Array.isArray(call) || call.length !== 2 || !Number.isSafeInteger(call[0]) || !Array.isArray(call[1])) {
        throw new ContractError(`${excerpt(call)}: expected [id, arguments]`);
      }
    }
    // 0 is for ever.
    const deadline = performance.now() + (milliseconds(data, "timeout", LONGEST) || Infinity);
    const shared = new Shared(this, (data["context"] ?? {}) as Fields, deadline);
    this.#open += calls.length;
    for (const [id] of calls as Group["calls"]) this.#planned.add(id);
    this.#groups.push({ shared, calls: calls as Group["calls"], next: 0 });
    if (this.#groups.length === 1) this.#make();
  }

  /**
   * Makes the calls that are to be made. Now and then it lets everything else have its turn: results go out, pings are
   * answered, and what has come meanwhile is read, so that it is known since when it is here and what was cancelled.
   */
  #make(): void {
    const end = performance.now() + TURN;
    for (let group: Group | undefined; (group = this.#groups[0]) !== undefined; this.#groups.shift()) {
      const { shared, calls } = group;
      while (group.next < calls.length) {
        const now = performance.now();
        if (now >= end) return void setImmediate(() => this.#make());
        const [id, args] = calls[group.next++]!;
        const planned = this.#planned.delete(id);
        if (planned && now < shared.deadline) this.#call(shared, id, args, now);
        else this.#closed(1);
      }
    }
  }

  /** What is still to be made is nobody's any more. */
  #forget(): void {
    const left = this.#groups.reduce((sum, { calls, next }) => sum + calls.length - next, 0);
    this.#groups = [];
    this.#planned.clear();
    this.#closed(left);
  }

  #call(shared: Shared, id: number, args: unknown[], now: number): void {
    const call = new Call(shared);
    try {
      const value = this.exec(args, call);
      if (!isPromise(value)) return this.#finish(id, value);
      this.#running.set(id, call);
      shared.calls.add(call);
      if (shared.deadline !== Infinity) {
        shared.timer ??= setTimeout(() => shared.calls.forEach((call) => call.giveUp()), shared.deadline - now);
      }
      const settle = (): void => {
        if (this.#running.get(id) === call) this.#running.delete(id);
        shared.calls.delete(call);
        if (shared.calls.size === 0) {
          clearTimeout(shared.timer);
          shared.timer = undefined;
        }
      };
      value.then(
        (value) => {
          settle();
          if (call.given) this.#closed(1);
          else this.#finish(id, value);
        },
        (error: unknown) => {
          settle();
          if (call.given) this.#closed(1);
          else this.#fail(id, error);
        },
      );
    } catch (error) {
      this.#fail(id, error);
    }
  }

  #finish(id: number, value: unknown): void {
    try {
      const encoded = JSON.stringify(value) ?? "null";
      const { message } = this.owner.limits;
      if (encoded.length * 3 + ENVELOPE > message && Buffer.byteLength(encoded) + ENVELOPE > message) {
        throw new LimitError(`a result of ${Buffer.byteLength(encoded)} bytes, at most ${message} are sent`);
      }
      this.#push(`[${id},${encoded}]`, false);
    } catch (error) {
      this.#fail(id, error);
    }
  }

  #fail(id: number, error: unknown): void {
    this.#push(`[${id},${JSON.stringify(errorText(error))}]`, true);
  }

  #push(encoded: string, failed: boolean): void {
    this.#results.push({ encoded, failed });
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => void this.#flush());
  }

  #closed(calls: number): void {
    this.#open -= calls;
    this.#waiting.splice(0).forEach((wake) => wake());
  }

  async #flush(): Promise<void> {
    try {
      while (this.#results.length > 0) {
        let results = "";
        let errors = "";
        let count = 0;
        for (const { encoded, failed } of this.#results) {
          if (count === this.owner.limits.batch || (count > 0 && results.length + errors.length + encoded.length > BATCH)) break;
          if (failed) errors += errors === "" ? encoded : `,${encoded}`;
          else results += results === "" ? encoded : `,${encoded}`;
          count++;
        }
        this.#results = this.#results.slice(count);
        await this.channel.send(errors === "" ? `{"results":[${results}]}` : `{"results":[${results}],"errors":[${errors}]}`);
        this.#closed(count);
      }
    } catch {
      this.#closed(this.#results.length); // the channel is closed
      this.#results = [];
    }
    this.#flushing = false;
  }

  async stop(late: AbortSignal): Promise<unknown> {
    this.#stopping = true;
    const end = aborted(late, "calls are still running");
    end.catch(() => {});
    try {
      while (this.#open > 0) await Promise.race([this.#change(), end]);
    } finally {
      this.channel.close();
      this.metrics.flush();
      this.#running.forEach((call) => call.giveUp());
      this.#forget();
    }
    await this.#done;
    return undefined;
  }

  async drop(): Promise<void> {
    this.channel.close();
    this.metrics.flush();
    this.#running.forEach((call) => call.giveUp());
    this.#forget();
    await this.#done;
  }
}

function isPromise(value: unknown): value is Promise<unknown> {
  return typeof value === "object" && value !== null && typeof (value as { then?: unknown }).then === "function";
}
