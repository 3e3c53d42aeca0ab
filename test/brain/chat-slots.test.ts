import { describe, expect, test } from "bun:test";
import type { Offer, Slot } from "../../src/brain/chat-offer.ts";
import { type Known, type SlotValue, settled, stateOf } from "../../src/brain/chat-slots.ts";

const slot = (name: string, types: string[], required = true): Slot => ({ name, types, required });
const OFFER: Offer = new Map(
  [
    { name: "Car", slots: [slot("model", ["string"]), slot("year", ["integer"]), slot("color", [], false)] },
    { name: "Refund", slots: [slot("order", ["string"])] },
  ].map((intent) => [intent.name, intent]),
);
const NOTHING: Known = { intent: null, slots: new Map() };

describe("an intent", () => {
  const settle = (intent: string | null, before: Known = NOTHING): Known =>
    settled(before, { intent, slots: [] }, { offer: OFFER, written: [] });

  test("is one of those that were offered, in upper or lower case; any other one is rejected", () => {
    expect([settle("Car").intent, settle(" car ").intent]).toEqual(["Car", "Car"]);
    expect([settle("Hacked").intent, settle(null).intent]).toEqual([null, null]);
  });

  test("stays, with its slots, if the model found none or its reply cannot be used", () => {
    const before = { intent: "Car", slots: new Map([["model", "Uno"]]) };
    expect(settle(null, before)).toEqual(before);
    expect(settled(before, null, { offer: OFFER, written: [] })).toEqual(before);
    expect(settle("Refund", before)).toEqual({ intent: "Refund", slots: new Map() });
  });
});

describe("a slot", () => {
  const filled = (types: string[], value: SlotValue | null, written: string): SlotValue | undefined => {
    const offer: Offer = new Map([["T", { name: "T", slots: [slot("s", types)] }]]);
    const found = { intent: "T", slots: [{ name: "s", value }] };
    return settled(NOTHING, found, { offer, written: [written] }).slots.get("s");
  };

  test("holds only whole words that the person wrote; accents and case may differ", () => {
    expect(filled(["string"], "Corolla", "quero um seguro")).toBeUndefined();
    expect(filled(["string"], "oro", "tenho um Corolla")).toBeUndefined();
    expect(filled(["string"], "CITROËN  c3", "é um Citroen-C3")).toBe("CITROËN  c3");
    expect(filled(["string"], "  Uno ", "um uno")).toBe("Uno");
  });

  test("holds only numbers that the person wrote, read as in English or in Portuguese", () => {
    expect(filled(["integer"], 2015, "é de 2.015.")).toBe(2015);
    expect(filled(["integer"], 201, "é de 2015")).toBeUndefined();
    expect(filled(["number"], 1999.9, "R$ 1.999,90")).toBe(1999.9);
    expect(filled(["number"], 1999.9, "$1,999.90")).toBe(1999.9);
    expect(filled(["integer"], 77.5, "77,5")).toBeUndefined();
  });

  test("holds a value of one of its field's types; other values are converted if that loses nothing", () => {
    expect(filled(["integer"], "2015", "2015")).toBe(2015);
    expect(filled(["integer"], "o 2015", "o 2015")).toBeUndefined();
    expect(filled(["string"], 2015, "2015")).toBe("2015");
    expect(filled(["boolean"], "true", "sim")).toBe(true);
    expect(filled(["boolean"], false, "não")).toBe(false);
    expect(filled(["string"], true, "true")).toBeUndefined();
    expect(filled(["string"], null, "null")).toBeUndefined();
    expect(filled(["string"], "x".repeat(257), "x".repeat(257))).toBeUndefined();
  });

  test("stays empty if it belongs to another intent or was not offered", () => {
    const found = {
      intent: "Car",
      slots: ["order", "__proto__", "model"].map((name) => ({ name, value: "B77" })),
    };
    const { slots } = settled(NOTHING, found, { offer: OFFER, written: ["B77"] });
    expect([...slots]).toEqual([["model", "B77"]]);
  });
});

describe("the state of a session", () => {
  test("lists the required slots that are empty as missing, in the order of the offer", () => {
    const state = stateOf("s", { intent: "Car", slots: new Map([["model", "Uno"]]) }, OFFER);
    expect(state).toEqual({
      ...{ session_id: "s", intent: "Car", slots: { model: "Uno" } },
      ...{ missing: ["year"], complete: false },
    });
  });

  test("is complete if an intent is known and nothing is missing for it", () => {
    const slots = new Map<string, SlotValue>([
      ["model", "Uno"],
      ["year", 2015],
    ]);
    expect(stateOf("s", { intent: "Car", slots }, OFFER).complete).toBe(true);
    expect(stateOf("s", NOTHING, OFFER)).toMatchObject({ missing: [], complete: false });
  });
});
