import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { scrubber, shownUrl, urlSecrets } from "../src/secrets.ts";

const KEY = "sk-proj-Zz9/+ü q&4711-abcdefgh";
const scrub = scrubber([KEY]);

const FORMS: Readonly<Record<string, string>> = {
  "as it is": KEY,
  "as a bearer token": `Bearer ${KEY}`,
  "percent-encoded": encodeURIComponent(KEY),
  "in base64": Buffer.from(KEY).toString("base64"),
  "in base64 for URLs": Buffer.from(KEY).toString("base64url"),
  "in base64 behind one character": Buffer.from(`:${KEY}`).toString("base64"),
  "in base64 behind a user": Buffer.from(`me:${KEY}`).toString("base64"),
  "in hexadecimal": Buffer.from(KEY).toString("hex"),
  "in capitals": KEY.toUpperCase(),
  "within JSON": JSON.stringify({ key: `${KEY}"` }),
};
for (const [form, text] of Object.entries(FORMS)) {
  test(`a key is masked ${form}`, () => {
    const clean = scrub(`wrong key ${text}, sorry`);
    expect(clean).toMatch(/^wrong key .*\*\*\*.*, sorry$/);
    expect(clean.length).toBeLessThan(40);
  });
}

test("the beginning and the end of a key are masked, too", () => {
  expect(scrub(`no ${KEY.slice(0, 12)}…${KEY.slice(-9)}!`)).toBe("no ***…***!");
});

test("other text stays as it is, and so do texts without a secret", () => {
  expect(scrub("the model is loading")).toBe("the model is loading");
  expect(scrubber([null, "", "abc"])("abc and more")).toBe("abc and more");
});

test("no part of 8 characters of a random key survives in a random text", () => {
  fc.assert(
    fc.property(
      fc.string({ minLength: 8, maxLength: 60 }),
      fc.string(),
      fc.string(),
      (key, before, after) => {
        const clean = scrubber([key])(`${before}${key}${after}`);
        expect(clean.includes(key) && !`${before}${after}`.includes(key) && !"***".includes(key)).toBe(false);
        expect(clean).toContain("***");
      },
    ),
  );
});

test("user, password, query and fragment of a URL are secrets, and are not shown", () => {
  const url = "https://me:p%40ss@host:8443/v1?api_key=hidden&v=#frag";
  expect(urlSecrets(url)).toEqual(["me", "p@ss", "hidden", "frag"]);
  expect(shownUrl(url)).toBe("https://host:8443/v1");
  expect([shownUrl("file:///etc/passwd"), shownUrl("data:,x")]).toEqual([
    "(an address of file:)",
    "(an address of data:)",
  ]);
  expect([urlSecrets("nonsense"), shownUrl("nonsense")]).toEqual([[], "(no valid address)"]);
});
