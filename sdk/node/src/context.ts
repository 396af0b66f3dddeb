/** What a symbol knows of its use, and what the host keeps and shows for it. */
import type { Json } from "./message.js";

/** The part of a session that contexts use. */
export interface Uplink {
  /** Sends a note, or drops it when too many wait. False when there is no host any more. */
  offer(note: object): boolean;
  /** Sends a request and waits for its answer. */
  ask(request: { type: string; [key: string]: unknown }): Promise<unknown>;
}

/** Writes to the host's log. Lines are dropped while the host doesn't keep up. */
export interface Logger {
  trace(message: string, fields?: Record<string, unknown>): void;
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
}

/**
 * Values that the host keeps per symbol and rule. They outlive the plugin's process. Keys have 1 to 256 bytes, values
 * at most 1 MiB of JSON; there are at most 10,000 keys. All methods wait for the host, up to 5 seconds.
 */
export interface State {
  /** The value of a key; undefined without one. */
  get<T = Json>(key: string): Promise<T | undefined>;
  put(key: string, value: unknown): Promise<void>;
  delete(key: string): Promise<void>;
  /** Adds to the number under a key, 0 if it is missing, and returns the new one. */
  add(key: string, by?: number): Promise<number>;
}

/** What every symbol knows. */
export interface Context {
  readonly symbol: string;
  readonly ruleId: string;
  readonly opId: string;
  readonly instanceId: number;
  /** Aborted when the symbol, or for a function the call, has to end. */
  readonly signal: AbortSignal;
  readonly log: Logger;
  readonly state: State;
  /** A number that grows, shown by the host under this name within a tenth of a second. */
  counter(name: string): { add(by: number): void };
  /** A number that goes up and down, shown by the host under this name within a tenth of a second. */
  gauge(name: string): { set(value: number): void };
}

/** What a source knows besides. */
export interface SourceContext extends Context {
  /** What the stream reads from. */
  readonly dataSource: string;
  /** Behind which the source has to go on, if it ever sent one; see `Output.send`. */
  readonly offset: unknown;
}

/** What a function knows besides. */
export interface CallContext extends Context {
  /** Tells the calls of one function in one rule apart. */
  readonly funcId: number;
}

export function createLogger(uplink: Uplink, use: number, base: Record<string, unknown> = {}): Logger {
  const write = (level: string) => (message: string, fields?: Record<string, unknown>) => {
    const all = { ...base, ...fields };
    const note = { type: "log", level, message: String(message), use, ...(Object.keys(all).length > 0 ? { fields: plain(all) } : {}) };
    if (!uplink.offer(note)) console.error(level, message, all);
  };
  return { trace: write("trace"), debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") };
}

/** A field that JSON can't hold must not cost the line. */
function plain(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => {
      if (value instanceof Error) return [name, value.message];
      try {
        return [name, JSON.stringify(value) === undefined ? String(value) : value];
      } catch {
        return [name, String(value)];
      }
    }),
  );
}

/** `rule` is given for functions, whose use doesn't tell. */
export function createState(uplink: Uplink, use: number, rule?: string): State {
  const scope = rule === undefined ? { use } : { use, rule };
  const ask = async (type: string, request: object): Promise<unknown> => {
    if (rule === "") throw new Error("a call without a rule has no state");
    return uplink.ask({ type, ...scope, ...request });
  };
  return {
    async get<T>(key: string) {
      return ((await ask("get", { key })) ?? undefined) as T | undefined;
    },
    async put(key, value) {
      await ask("put", { key, value: value === undefined ? null : value });
    },
    async delete(key) {
      await ask("delete", { key });
    },
    async add(key, by = 1) {
      return (await ask("add", { key, by })) as number;
    },
  };
}

const METRICS_INTERVAL = 100;

/** The metrics of one use, told to the host at most ten times a second. */
export class Metrics {
  readonly #changed = new Map<string, { type: "metric"; use: number; name: string; kind: string; value: number }>();
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly send: (note: object) => void,
    private readonly use: number,
  ) {}

  counter(name: string): { add(by: number): void } {
    return { add: (by) => this.#change(name, "counter", by) };
  }

  gauge(name: string): { set(value: number): void } {
    return { set: (value) => this.#change(name, "gauge", value) };
  }

  #change(name: string, kind: string, value: number): void {
    const key = `${kind} ${name}`;
    const known = this.#changed.get(key);
    if (known === undefined) this.#changed.set(key, { type: "metric", use: this.use, name, kind, value });
    else known.value = kind === "counter" ? known.value + value : value;
    this.#timer ??= setTimeout(() => this.flush(), METRICS_INTERVAL);
  }

  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const changed = [...this.#changed.values()];
    this.#changed.clear();
    changed.forEach(this.send);
  }
}
