/**
 * The shape of a body as 32 hexadecimal digits: bodies of one shape have one fingerprint. Part of the schemas.
 */
import type { JsonObject, JsonValue } from "./read.ts";

/** Levels that a fingerprint looks at, and elements of one array. */
const FINGERPRINT_DEPTH_MAX = 4;
const FINGERPRINT_ELEMENTS_MAX = 4;
const FINGERPRINT_KEY_CHARS_MAX = 64;
const DISCRIMINATOR_CHARS_MAX = 64;

/** Keys whose value says what kind of event or object this is; compared without case, `_` and `-`. */
const DISCRIMINATORS: ReadonlySet<string> = new Set([
  ...["action", "type", "event", "kind", "object", "topic", "operation", "op", "method", "category"],
  ...["eventtype", "eventname", "eventkind", "objecttype", "objectkind", "resourcetype", "recordtype"],
  ...["webhookevent", "webhooktype", "messagetype", "notificationtype", "trigger", "resource", "schema"],
]);

/** Keys and values that name one thing among many: a number, a UUID, a long hexadecimal or mixed text. */
function isIdentifier(text: string): boolean {
  return /\d{4}/.test(text) || /^\d+$/.test(text) || /^[0-9a-f-]{12,}$/i.test(text);
}

function isContainer(value: JsonValue): boolean {
  return typeof value === "object" && value !== null;
}

/**
 * The same for bodies of the same shape: key paths, JSON types, and the values of keys such as `action`. The order
 * of keys and the number of elements do not matter, and keys that look like an id count as one. Of a body over 16
 * KiB only what its condensed form has is looked at. 32 hexadecimal digits.
 */
export function fingerprintOf(value: JsonObject): string {
  const lines = new Set<string>();
  const visit = (path: string, key: string, value: JsonValue, depth: number): void => {
    if (Array.isArray(value)) {
      lines.add(`${path} array`);
      if (depth === FINGERPRINT_DEPTH_MAX) return;
      // Lists of plain values are of one shape, whether they hold any or not: GitHub's pushes have several, often empty.
      for (const element of value.slice(0, FINGERPRINT_ELEMENTS_MAX).filter(isContainer))
        visit(`${path}\u0000[]`, "", element, depth + 1);
    } else if (typeof value === "object" && value !== null) {
      lines.add(`${path} object`);
      if (depth === FINGERPRINT_DEPTH_MAX) return;
      for (const name in value) {
        const plain = name.length <= FINGERPRINT_KEY_CHARS_MAX && !isIdentifier(name);
        visit(
          `${path}\u0000${plain ? JSON.stringify(name) : "*"}`,
          name,
          value[name] as JsonValue,
          depth + 1,
        );
      }
    } else {
      lines.add(`${path} ${value === null ? "null" : typeof value}`);
      if (typeof value !== "string" || value.length > DISCRIMINATOR_CHARS_MAX) return;
      const says = DISCRIMINATORS.has(key.toLowerCase().replaceAll(/[_-]/g, ""));
      if (says && !isIdentifier(value)) lines.add(`${path} = ${JSON.stringify(value)}`);
    }
  };
  visit("", "", value, 0);
  const hash = new Bun.CryptoHasher("sha256").update([...lines].sort().join("\n"));
  return hash.digest("hex").slice(0, 32);
}
