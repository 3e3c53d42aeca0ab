import { describe, expect, test } from "bun:test";
import { Field, type Step } from "../../src/schemas/field.ts";
import { mergeField } from "../../src/schemas/merge.ts";

function fieldIn(parent: Field, step: Step, values: Partial<Field> = {}, hidden = false): Field {
  const field = Object.assign(new Field(parent, step, hidden), values);
  if (step === "element") parent.elements = field;
  else if (step === "any key") parent.anyKey = field;
  else {
    parent.children ??= new Map();
    parent.children.set(step.key, field);
  }
  return field;
}

const key = (name: string): Step => ({ key: name });

function merge(into: Field, from: Field): Field[] {
  const removed: Field[] = [];
  mergeField(into, from, {
    events: 90,
    windowEvents: 50,
    nowUs: 900,
    onRemoved: (field) => removed.push(field),
  });
  return removed;
}

describe("merging two fields", () => {
  test("adds the counts, keeps first and newest, and never counts more filled events than the window has", () => {
    const root = new Field(null, "element", false);
    const into = fieldIn(root, "any key", {
      ...{ sightings: 3, filled: 30, filledEvent: 20, firstEvent: 5, firstUs: 50 },
      ...{ lastEvent: 40, lastUs: 400, pauseEvents: 7 },
    });
    const from = fieldIn(root, key("u1"), {
      ...{ sightings: 4, filled: 40, filledEvent: 10, firstEvent: 2, firstUs: 20 },
      ...{ lastEvent: 60, lastUs: 600, pauseEvents: 6, sample: '"x"' },
    });
    into.values[0] = 1;
    from.values[0] = 2;
    from.values[5] = 3;
    expect(merge(into, from)).toEqual([from]);
    expect(into.values).toEqual([3, 0, 0, 0, 0, 3, 0]);
    expect(into).toMatchObject({
      ...{ sightings: 7, filled: 50, filledEvent: 20, firstEvent: 2, firstUs: 20 },
      ...{ lastEvent: 60, lastUs: 600, pauseEvents: 7, sample: '"x"' },
    });
  });

  test("moves fields that only one of them has inside, and merges fields that both have", () => {
    const root = new Field(null, "element", false);
    const into = fieldIn(root, "any key");
    const name = fieldIn(into, key("name"), { sightings: 1 });
    const from = fieldIn(root, key("u1"));
    const otherName = fieldIn(from, key("name"), { sightings: 2 });
    const tags = fieldIn(from, key("tags"));
    const element = fieldIn(tags, "element");
    const any = fieldIn(from, "any key");
    const removed = merge(into, from);
    expect(removed).toEqual([otherName, from]);
    expect([...(into.children ?? [])].map(([name]) => name)).toEqual(["name", "tags"]);
    expect(into.children?.get("name")).toBe(name);
    expect(name.sightings).toBe(3);
    expect([tags.parent, element.parent, any.parent, into.anyKey]).toEqual([into, tags, into, any]);
  });

  test("does not take the sample of a hidden field into one that is not hidden", () => {
    const root = new Field(null, "element", false);
    const open = fieldIn(root, "any key");
    merge(open, fieldIn(root, key("token"), { sample: '"***"' }, true));
    expect(open.sample).toBeNull();
    const hidden = fieldIn(root, "any key", {}, true);
    merge(hidden, fieldIn(root, key("token"), { sample: '"***"' }, true));
    expect(hidden.sample).toBe('"***"');
  });
});
