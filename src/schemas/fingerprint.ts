/** A fingerprint is the same for all bodies of one shape. Part of the schemas. */
import type { JsonObject, JsonValue } from "./read.ts";

/** A fingerprint depends on this many levels, and on this many objects or arrays in one array. */
const FINGERPRINT_DEPTH_MAX = 4;
const FINGERPRINT_ELEMENTS_MAX = 4;
const FINGERPRINT_KEY_CHARS_MAX = 64;
const DISCRIMINATOR_CHARS_MAX = 64;

/** Keys whose values name the kind of event or object. Case, `_` and `-` do not matter. */
const DISCRIMINATORS: ReadonlySet<string> = new Set([
  ...["action", "type", "event", "kind", "object", "topic", "operation", "op", "method", "category"],
  ...["eventtype", "eventname", "eventkind", "objecttype", "objectkind", "resourcetype", "recordtype"],
  ...["webhookevent", "webhooktype", "messagetype", "notificationtype", "trigger", "resource", "schema"],
]);

/** Whether a key or value names one thing among many: a number, a UUID, a long hexadecimal text, one with a long number. */
function isIdentifier(text: string): boolean {
  return /\d{4}/.test(text) || /^\d+$/.test(text) || /^[0-9a-f-]{12,}$/i.test(text);
}

function isContainer(value: JsonValue): boolean {
  return typeof value === "object" && value !== null;
}

/**
 * 32 hexadecimal digits that depend on key paths, JSON types, and the values of keys such as `action`. The order of keys
 * and the number of elements do not matter, and all keys that look like ids count as the same key.
 */
export function fingerprintOf(value: JsonObject): string {
  const lines = new Set<string>();
  const visit = (path: string, key: string, value: JsonValue, depth: number): void => {
    if (Array.isArray(value)) {
      lines.add(`${path} array`);
      if (depth === FINGERPRINT_DEPTH_MAX) return;
      // A list of plain values has the same shape as an empty one: GitHub's pushes have several lists, often empty.
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
