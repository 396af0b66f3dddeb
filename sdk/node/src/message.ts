/** What is on the wire, and the checks of what the host sends. */

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Limits {
  /** The longest message, in bytes. */
  message: number;
  /** The most tuples, results or calls in one message. */
  batch: number;
}

/** A message breaks the contract. */
export class ContractError extends Error {}

export type Fields = Record<string, unknown>;

export function parseObject(message: Buffer | string): Fields {
  let value: unknown;
  try {
    value = JSON.parse(message.toString());
  } catch (error) {
    throw new ContractError(`expected JSON: ${errorText(error)}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new ContractError("expected a JSON object");
  return value as Fields;
}

/** An unsigned integer; `otherwise` stands for a missing one. */
export function unsigned(fields: Fields, name: string, otherwise?: number): number {
  const value = fields[name] ?? otherwise;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw new ContractError(`${name}: expected an unsigned integer, not ${excerpt(value)}`);
  }
  return value;
}

/** A text; a missing one is empty. */
export function text(fields: Fields, name: string): string {
  const value = fields[name] ?? "";
  if (typeof value !== "string") throw new ContractError(`${name}: expected a text, not ${excerpt(value)}`);
  return value;
}

/** An array; a missing one is empty. */
export function list(fields: Fields, name: string): unknown[] {
  const value = fields[name] ?? [];
  if (!Array.isArray(value)) throw new ContractError(`${name}: expected an array, not ${excerpt(value)}`);
  return value;
}

/** A span of time in milliseconds that a timer can hold. */
export function milliseconds(fields: Fields, name: string, otherwise: number): number {
  const value = fields[name];
  return typeof value === "number" && value >= 0 && value <= 1e9 ? value : otherwise;
}

const EXCERPT = 80;

export function excerpt(value: unknown): string {
  const whole = Buffer.isBuffer(value) ? JSON.stringify(value.toString("utf8", 0, EXCERPT)) : (stringify(value) ?? "nothing");
  return whole.length > EXCERPT ? `${whole.slice(0, EXCERPT)}…` : whole;
}

function stringify(value: unknown): string | undefined {
  try {
    return JSON.stringify(value);
  } catch {
    return String(value);
  }
}

/** The text of whatever was thrown; never empty, which would be no error on the wire. */
export function errorText(error: unknown): string {
  try {
    return (error instanceof Error ? error.message : String(error)) || "error without a text";
  } catch {
    return "error without a text";
  }
}
