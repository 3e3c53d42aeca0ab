/** Labels in a journal: a hash keeps its first text. */

import { expect, setDefaultTimeout, test } from "bun:test";
import { Labels } from "../../src/journal/labels.ts";
import { openParts, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

test("labels outlive the process, in the order of kind and id, and a hash keeps its first label", () => {
  const path = newPath();
  {
    using parts = openParts(path);
    const labels = new Labels(parts.database, parts.transactions);
    labels.add([]);
    expect(labels.all()).toEqual([]);
    labels.add([
      { kind: "type", id: 2, label: "B", dim: 0 },
      { kind: "model", id: 0xffff_ffff, label: "m", dim: 1024 },
    ]);
    labels.add([
      { kind: "type", id: 2, label: "another", dim: 0 },
      { kind: "intent", id: 2, label: "I", dim: 0 },
    ]);
  }
  using parts = openParts(path);
  expect(new Labels(parts.database, parts.transactions).all()).toEqual([
    { kind: "intent", id: 2, label: "I", dim: 0 },
    { kind: "model", id: 0xffff_ffff, label: "m", dim: 1024 },
    { kind: "type", id: 2, label: "B", dim: 0 },
  ]);
});
