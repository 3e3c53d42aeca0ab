/**
 * Makes one field of two: of the rare keys of an object that turns out to be a map, with everything inside of them.
 * Part of the schemas.
 */
import type { Field } from "./field.ts";

/** What merging has to know of the schema that the fields belong to, and what it tells it. */
export interface Merging {
  /** Events of the type, and those of its window. */
  readonly events: number;
  readonly windowEvents: number;
  /** When the event at hand was received, Unix µs. */
  readonly nowUs: number;
  /** `field` is no field any more; called once for each. */
  readonly onRemoved: (field: Field) => void;
}

/** Adds what was learned of `from` to `into`; `from` is no field any more. */
export function mergeField(into: Field, from: Field, schema: Merging): void {
  from.values.forEach((count, type) => {
    into.values[type] = (into.values[type] as number) + count;
  });
  into.sightings += from.sightings;
  into.filled = Math.min(schema.windowEvents, into.filled + from.filled);
  into.firstEvent =
    into.firstEvent === 0 ? from.firstEvent : Math.min(into.firstEvent, from.firstEvent || schema.events);
  into.firstUs = into.firstUs === 0 ? from.firstUs : Math.min(into.firstUs, from.firstUs || schema.nowUs);
  into.filledEvent = Math.max(into.filledEvent, from.filledEvent);
  into.lastEvent = Math.max(into.lastEvent, from.lastEvent);
  into.lastUs = Math.max(into.lastUs, from.lastUs);
  into.pauseEvents = Math.max(into.pauseEvents, from.pauseEvents);
  into.sample ??= into.hidden || !from.hidden ? from.sample : null;
  for (const [key, child] of from.children ?? []) {
    into.children ??= new Map();
    into.children.set(key, moved(child, into, into.children.get(key) ?? null, schema));
  }
  if (from.anyKey !== null) into.anyKey = moved(from.anyKey, into, into.anyKey, schema);
  if (from.elements !== null) into.elements = moved(from.elements, into, into.elements, schema);
  schema.onRemoved(from);
}

/** What stands in `into` once `child` is moved there: `there`, if that was there before, and else `child` itself. */
function moved(child: Field, into: Field, there: Field | null, schema: Merging): Field {
  if (there !== null) {
    mergeField(there, child, schema);
    return there;
  }
  child.parent = into;
  return child;
}
