/** The journal on real files: what is acknowledged is kept, once, in order, whatever happens. */

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { GatewayError } from "../../src/errors.ts";
import type { ParsedEvent } from "../../src/event/event.ts";
import { eventId, type JournalEvent } from "../../src/journal/journal.ts";
import {
  DAY_US,
  event,
  FROM,
  failureOf,
  frames,
  HOUR_US,
  keyed,
  NOW_US,
  openAt,
  refusal,
  seqsOf,
  tempFolder,
} from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

// Registered before the folder's own clean-up, because a folder with a mount in it cannot be removed.
afterAll(() => {
  if (mounted) Bun.spawnSync(["umount", "-l", disk]);
});

const { newPath, root } = tempFolder();

const disk = join(root, "small-disk");
mkdirSync(disk);
const mounted = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk]).exitCode === 0;

describe("appending", () => {
  test("an event comes back as it was given", async () => {
    using journal = openAt(newPath());
    const given = event({
      body: new Uint8Array([123, 0xc3, 0xa9, 125]),
      id: "their-id",
      type: "T\u0000ype",
      message: "olá \u{1f600} \u0000 end",
      conversationId: "c-1",
      timestampUs: 1_700_000_000_000_001,
      fields: { actor: 2, sentiment: -0.5, intent: "buy" },
    });
    expect(await journal.append([given], FROM)).toEqual([{ seq: 1, id: "their-id", duplicate: false }]);
    const { key: _, dedupByBody: __, ignoredFields: ___, ...kept } = given;
    expect(journal.eventsAt([1, 2])).toEqual([{ seq: 1, receivedUs: NOW_US, ...kept, id: "their-id" }, null]);
    expect(journal.headSeq()).toBe(1);
  });

  test("without an id from the sender, an event gets a UUIDv7 made of receipt, journal and seq", async () => {
    using journal = openAt(newPath());
    const results = await journal.append([event(), event()], FROM);
    expect(results.map(({ id }) => id)).toEqual([
      eventId(NOW_US, journal.journalId, 1),
      eventId(NOW_US, journal.journalId, 2),
    ]);
    const [first = "", second = ""] = results.map(({ id }) => id);
    for (const id of [first, second])
      expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(Number.parseInt(first.replaceAll("-", "").slice(0, 12), 16)).toBe(Math.floor(NOW_US / 1000));
    expect(second > first).toBe(true);
    expect(eventId(NOW_US, 0xffff_ffff, 2 ** 52 + 5)).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  });

  test("calls of one turn share one commit, which is announced in order of seq before their promises resolve", async () => {
    using journal = openAt(newPath());
    const told: string[] = [];
    journal.onCommitted = ({ events }) => {
      expect(journal.headSeq()).toBe(3);
      told.push(`committed ${seqsOf(events)}`);
    };
    const calls = [[event()], [event(), event()]].map((events) =>
      journal.append(events, FROM).then((results) => told.push(`answered ${seqsOf(results)}`)),
    );
    expect(journal.headSeq()).toBe(0);
    await Promise.all(calls);
    expect(told).toEqual(["committed 1,2,3", "answered 1", "answered 2,3"]);
  });

  test("a group is bounded: calls beyond the bound go to the next group", async () => {
    using journal = openAt(newPath());
    const groups: number[] = [];
    journal.onCommitted = ({ events }) => groups.push(events.length);
    const batch = new Array<ParsedEvent>(1500).fill(event());
    const results = await Promise.all([1, 2, 3, 4].map(() => journal.append(batch, FROM)));
    expect(groups).toEqual([3000, 3000]);
    expect(seqsOf(results.flat())).toEqual(Array.from({ length: 6000 }, (_, index) => index + 1));
  });

  test("a listener that throws does not prevent the acknowledgement", async () => {
    const path = newPath();
    const script = `
      import { Journal } from ${JSON.stringify(join(import.meta.dir, "../../src/journal/journal.ts"))};
      const journal = Journal.open({ path: ${JSON.stringify(path)}, ephemeral: null, nowUs: () => 1, randomU32: () => 1, bootId: "b" });
      process.on("uncaughtException", (error) => console.log("uncaught", error.message));
      journal.onCommitted = () => { throw new Error("a bug elsewhere"); };
      const body = new TextEncoder().encode("{}");
      const event = { body, id: null, key: null, type: null, message: null, conversationId: null, timestampUs: null, fields: null };
      console.log("acknowledged", (await journal.append([event], { source: "s", receivedUs: 1 }))[0].seq);
      journal[Symbol.dispose]();`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" });
    const output = await new Response(child.stdout).text();
    expect(output.trim().split("\n").sort()).toEqual(["acknowledged 1", "uncaught a bug elsewhere"]);
  });

  test("a refused row fails its own call, not the group", async () => {
    using journal = openAt(newPath());
    const good = journal.append(keyed("a"), FROM);
    const bad = failureOf(
      journal.append([event(), event({ key: "b", fields: { actor: 1n as never } })], FROM),
    );
    const other = failureOf(journal.append([event({ key: "b" })], { ...FROM, source: null as never }));
    const last = journal.append([event(), event({ key: "b" })], FROM);
    expect(seqsOf(await good)).toEqual([1]);
    expect(String(await bad)).toContain("BigInt");
    expect(String(await other)).toContain("NOT NULL");
    expect((await last).map(({ seq, duplicate }) => [seq, duplicate])).toEqual([
      [2, false],
      [3, false],
    ]);
    expect(seqsOf(journal.unframedAfter(0, 10))).toEqual([1, 2, 3]);
  });

  test("closing the journal commits waiting calls and refuses later ones", async () => {
    const path = newPath();
    const journal = openAt(path);
    const waiting = [journal.append([event()], FROM), journal.append([event()], FROM)];
    journal[Symbol.dispose]();
    journal[Symbol.dispose]();
    expect((await Promise.all(waiting)).flat().map(({ seq }) => seq)).toEqual([1, 2]);
    expect(await failureOf(journal.append([event()], FROM))).toMatchObject({ code: "journal_failed" });
    expect(readdirSync(join(path, ".."))).toEqual(["events.duckdb.journal"]);
    using again = openAt(path);
    expect(again.headSeq()).toBe(2);
  });
});

describe("failures", () => {
  test("everything that a killed process acknowledged is in the journal afterwards, exactly once", async () => {
    const path = newPath();
    const acknowledged = new Map<string, number>();
    const framed = new Map<number, number>();
    for (let round = 0; round < 4; round++) {
      const script = Bun.fileURLToPath(import.meta.resolve("../fixtures/journal/append-forever.ts"));
      const child = Bun.spawn([process.execPath, script, path, String(round * 1_000_000)], {
        stdout: "pipe",
        stderr: "inherit",
      });
      let text = "";
      const enough = 300 + 170 * round;
      for await (const chunk of child.stdout) {
        text += new TextDecoder().decode(chunk);
        if (text.length > 15 * enough) child.kill("SIGKILL");
      }
      await child.exited;
      const lines = text.slice(0, text.lastIndexOf("\n")).split("\n");
      expect(lines.length).toBeGreaterThan(enough / 2);
      for (const [key = "", seq, frameId] of lines.map((line) => line.split(" "))) {
        if (key === "frame") framed.set(Number(seq), Number(frameId));
        else acknowledged.set(key, Number(seq));
      }
      using journal = openAt(path, { keysInMemoryMax: 64 });
      const events = journal.eventsAt([...acknowledged.values()]);
      [...acknowledged.keys()].forEach((key, index) => {
        expect(JSON.parse(new TextDecoder().decode(events[index]?.body)).key).toBe(key);
      });
      for (const [seq, frameId] of framed) expect(journal.frameOf(seq)?.frameId).toBe(frameId);
      expect(journal.framesFrom(1, 1e6).map(({ frameId }) => frameId)).toEqual(
        Array.from({ length: journal.nextFrameId() - 1 }, (_, index) => index + 1),
      );
      const again = await journal.append(keyed(...acknowledged.keys()), {
        ...FROM,
        receivedUs: Date.now() * 1000,
      });
      expect(again.map(({ seq, duplicate }) => (duplicate ? seq : -1))).toEqual([...acknowledged.values()]);
    }
  });

  test.skipIf(!mounted)(
    "on a full disk the journal refuses whole calls, loses nothing, leaves no gap, and continues when there is room (needs root)",
    async () => {
      const path = join(disk, "journal");
      const ballast = join(disk, "ballast");
      writeFileSync(ballast, new Uint8Array(3_000_000));
      let journal = openAt(path, { keysInMemoryMax: 16 });
      const known = new Map<string, number>();
      let head = 0;
      journal.onCommitted = ({ events }) => {
        for (const { seq } of events) expect(seq).toBe(++head);
      };
      let frameId = 0;
      const body = new Uint8Array(2000).fill(120);
      const put = async (name: string): Promise<unknown> => {
        const keys = [1, 2, 3, 4, 5].map((part) => `${name}/${part}`);
        const framing = head > frameId ? journal.decide(frames(frameId + 1)) : null;
        const appending = journal.append(
          keys.map((key) => event({ key, body })),
          FROM,
        );
        const [decided, appended] = await Promise.allSettled([framing, appending]);
        if (decided.status === "fulfilled" && decided.value !== null) expect(decided.value).toBe(++frameId);
        if (appended.status === "rejected") return appended.reason;
        keys.forEach((key, index) => {
          known.set(key, appended.value[index]?.seq ?? 0);
        });
        return null;
      };
      for (let round = 0; round < 2; round++) {
        let refused = 0;
        for (let index = 0; refused < 5; index++) {
          const error = await put(`${round}-${index}`);
          if (error === null) continue;
          expect(error).toBeInstanceOf(GatewayError);
          expect((error as GatewayError).code).toBe("disk_full");
          expect(journal.headSeq()).toBe(head);
          refused += 1;
        }
        const full = refusal(() => {
          for (let index = 0; ; index++) journal.setMeta(`${index}`, "x".repeat(4000));
        });
        expect(full.code).toBe("disk_full");
        if (round === 0) {
          writeFileSync(ballast, new Uint8Array(1_000_000));
          expect(await put("with room again")).toBeNull();
        }
      }
      rmSync(ballast);
      journal[Symbol.dispose]();
      journal = openAt(path, { keysInMemoryMax: 16 });
      journal.onCommitted = () => {};
      expect([journal.headSeq(), journal.nextFrameId()]).toEqual([head, frameId + 1]);
      expect(known.size).toBe(head);
      const again = await journal.append(keyed(...known.keys()), FROM);
      expect(again.map(({ seq, duplicate }) => (duplicate ? seq : -1))).toEqual([...known.values()]);
      journal[Symbol.dispose]();
    },
  );
});

/** A model of the journal's promises in memory. */
class Model {
  readonly events = new Map<number, JournalEvent>();
  readonly frames = new Map<number, number>();
  readonly keys = new Map<string, { seq: number; receivedUs: number }>();
  head = 0;
  nextFrameId = 1;
  pruned = { seq: 0, frameId: 0, answerId: 0 };

  append(
    events: readonly ParsedEvent[],
    o: { source: string; receivedUs: number },
  ): { seq: number; duplicate: boolean }[] {
    return events.map(({ key }) => {
      const scoped = `${o.source} ${key}`;
      const first = key === null ? undefined : this.keys.get(scoped);
      if (first !== undefined && first.receivedUs >= o.receivedUs - 15 * DAY_US)
        return { seq: first.seq, duplicate: true };
      this.head += 1;
      if (key !== null) this.keys.set(scoped, { seq: this.head, receivedUs: o.receivedUs });
      this.events.set(this.head, { seq: this.head } as JournalEvent);
      return { seq: this.head, duplicate: false };
    });
  }

  unframed(): number[] {
    const framed = new Set(this.frames.values());
    return [...this.events.keys()].filter((seq) => !framed.has(seq));
  }

  prune(seqMax: number, frameIdMax: number, max: number): number {
    let removed = 0;
    for (const [frameId, seq] of [...this.frames]) {
      if (removed === max || frameId > frameIdMax || seq > seqMax) break;
      this.frames.delete(frameId);
      this.events.delete(seq);
      this.pruned = { seq: Math.max(this.pruned.seq, seq), frameId, answerId: 0 };
      removed += 1;
    }
    return removed;
  }
}

type Command =
  | { do: "append"; calls: { keys: (number | null)[]; source: string }[]; hours: number }
  | { do: "decide"; picks: number[]; again: boolean }
  | { do: "prune"; seq: number; frameId: number; max: number }
  | { do: "forget keys" }
  | { do: "restart" };

const commands: fc.Arbitrary<Command[]> = fc.array(
  fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({
        do: fc.constant("append" as const),
        calls: fc.array(
          fc.record({
            keys: fc.array(fc.option(fc.nat(60)), { maxLength: 12 }),
            source: fc.constantFrom("a", "b"),
          }),
          { minLength: 1, maxLength: 4 },
        ),
        hours: fc.nat(120),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant("decide" as const),
        picks: fc.array(fc.nat(1000), { maxLength: 12 }),
        again: fc.boolean(),
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant("prune" as const),
        seq: fc.nat(150),
        frameId: fc.nat(150),
        max: fc.integer({ min: 1, max: 20 }),
      }),
    },
    { weight: 1, arbitrary: fc.constant({ do: "forget keys" as const }) },
    { weight: 1, arbitrary: fc.constant({ do: "restart" as const }) },
  ),
  { maxLength: 40 },
);

test("the journal behaves like a plain model under any commands and restarts", async () => {
  const seed = Number(process.env.FC_SEED ?? Date.now() % 2 ** 31);
  console.log(`journal model: FC_SEED=${seed}`);
  await fc.assert(
    fc.asyncProperty(commands, async (list) => {
      const path = newPath();
      const model = new Model();
      let receivedUs = NOW_US;
      const options = { keysInMemoryMax: 4, nowUs: () => receivedUs };
      let journal = openAt(path, options);
      try {
        for (const command of list) {
          if (command.do === "append") {
            receivedUs += command.hours * HOUR_US;
            const calls = command.calls.map(({ keys, source }) => ({
              events: keys.map((key) => event({ key: key === null ? null : `k${key}` })),
              options: { source, receivedUs },
            }));
            const results = await Promise.all(
              calls.map(({ events, options }) => journal.append(events, options)),
            );
            const expected = calls.map(({ events, options }) => model.append(events, options));
            expect(results.map((call) => call.map(({ seq, duplicate }) => ({ seq, duplicate })))).toEqual(
              expected,
            );
          } else if (command.do === "decide") {
            const unframed = model.unframed();
            const seqs = [
              ...new Set(command.picks.map((pick) => unframed[pick % Math.max(1, unframed.length)] ?? -1)),
            ];
            const already = [...model.frames.values()][0];
            const bad =
              command.again && already !== undefined ? failureOf(journal.decide(frames(already))) : null;
            if (seqs.includes(-1)) continue;
            const halves = [seqs.slice(0, seqs.length >> 1), seqs.slice(seqs.length >> 1)];
            const ids = await Promise.all(halves.map((half) => journal.decide(frames(...half))));
            await bad;
            halves.forEach((half, index) => {
              expect(ids[index]).toBe(model.nextFrameId);
              for (const seq of half) model.frames.set(model.nextFrameId++, seq);
            });
          } else if (command.do === "prune") {
            const removed = journal.prune(
              { seq: command.seq, frameId: command.frameId, answerId: 0 },
              command.max,
            );
            expect(removed).toBe(model.prune(command.seq, command.frameId, command.max));
          } else if (command.do === "forget keys") {
            journal.pruneKeys(3);
          } else {
            journal[Symbol.dispose]();
            journal = openAt(path, options);
          }
          expect(seqsOf(journal.unframedAfter(0, 1e6))).toEqual(model.unframed());
          expect(journal.framesFrom(0, 1e6).map(({ frameId, seq }) => [frameId, seq])).toEqual([
            ...model.frames,
          ]);
          expect([
            journal.headSeq(),
            journal.nextFrameId(),
            journal.backlog().events,
            journal.pruned(),
          ]).toEqual([model.head, model.nextFrameId, model.events.size, model.pruned]);
        }
      } finally {
        journal[Symbol.dispose]();
        rmSync(join(path, ".."), { recursive: true });
      }
    }),
    { seed, numRuns: 60 },
  );
});
