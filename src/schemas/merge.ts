/**
 * Merges two fields into one, with everything inside them: used if an object turns out to be a map. Part of the schemas.
 */
import type { Field } from "./field.ts";

/** The state of the schema that both fields belong to. */
export interface Merging {
  /** Observed events of the type: all, and those of the window. */
  readonly events: number;
  readonly windowEvents: number;
  /** When the current event was received, Unix µs. */
  readonly nowUs: number;
  /** Called once for each field that was merged into another. */
  readonly onRemoved: (field: Field) => void;
}

/** Adds all counts of `from` to `into`, and moves or merges what is inside it. */
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

/** Moves `child` into `into`. @returns the field that is there then: `there` with all counts, or `child` itself. */
function moved(child: Field, into: Field, there: Field | null, schema: Merging): Field {
  if (there !== null) {
    mergeField(there, child, schema);
    return there;
  }
  child.parent = into;
  return child;
}
