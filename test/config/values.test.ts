/** The kinds of values that options take. */
import { describe, expect, test } from "bun:test";
import type { ConfigSources } from "../../src/config/sources.ts";
import * as values from "../../src/config/values.ts";
import { isLoopback, type Kind, parseSizeBytes } from "../../src/config/values.ts";

const sources: ConfigSources = {
  ...{ args: [], env: {}, dotenv: null, workingDir: "/folder", executableDir: "/programs" },
  ...{ platform: "linux", hostIsFound: false, stdoutIsTty: false, stderrIsTty: false },
  readFile: (path) => {
    if (path === "/folder/t") return " from-file \nsecond\n";
    if (path === "/folder/empty") return "\nx";
    if (path === "/folder/odd") return "two words";
    throw new Error("ENOENT: no such file");
  },
};

describe("a kind of value", () => {
  const cases: readonly [name: string, kind: Kind<unknown>, good: Record<string, unknown>, bad: string[]][] =
    [
      ["path", values.path, { "a/b": "/folder/a/b", "/x": "/x", "": "/folder" }, []],
      ["ringPath", values.ringPath, { r: "/folder/r" }, ["/", "/x/..", ".."]],
      ["token", values.secret, { "t!~": "t!~" }, ["", "two words", "é", "a\nb"]],
      ["tokenFile", values.tokenFile, { t: "from-file" }, ["empty", "odd", "missing"]],
      ["oneOf", values.oneOf("a", "b"), { a: "a", b: "b", A: "a" }, ["", "c", "ab"]],
      ["whole", values.whole("a port", 0, 10), { "0": 0, "10": 10, "007": 7 }, ["", "11", "-1", "1.0", " 1"]],
      [
        "durationMs",
        values.durationMs({ min: 10, max: 3_600_000, takes: "a duration" }),
        { "10ms": 10, "1": 1000, "2s": 2000, "1.5m": 90_000, "1H": 3_600_000, " 3 s ": 3000 },
        ["", "9ms", "61m", "1d", "s", "-1s", "1.0001s"],
      ],
      ["sizeBytes", values.sizeBytes, { "64MiB": 67_108_864, "1": 1 }, ["0", "", "x"]],
      ["sizeBytesFrom", values.sizeBytesFrom(10), { "10MB": 1e7, "1GB": 1e9 }, ["9999999", "9MB", "x"]],
      ["fileMode", values.fileMode, { "0600": 0o600, "644": 0o644 }, ["", "8", "0888", "06444"]],
      [
        "urlOrOff",
        values.urlOrOff,
        { off: null, OFF: null, "http://a/v1//": "http://a/v1", "https://a": "https://a" },
        ["", "a:1", "ftp://a"],
      ],
    ];
  for (const [name, kind, good, bad] of cases) {
    test(`${name} reads good values, and gives a fault for bad ones`, () => {
      for (const [text, value] of Object.entries(good)) expect(kind(text, sources)).toEqual({ value });
      for (const text of bad) expect(kind(text, sources)).toEqual({ fault: expect.stringMatching(/./) });
    });
  }

  test("a fault names the text and the values allowed, but never a token", () => {
    expect(values.whole("a port", 0, 10)("11", sources)).toEqual({
      fault: '"11" is not a port from 0 to 10',
    });
    expect(JSON.stringify(values.secret("top secret", sources))).not.toContain("secret");
    expect(JSON.stringify(values.tokenFile("odd", sources))).not.toContain("words");
  });
});

describe("parseSizeBytes", () => {
  test("knows decimal and binary units", () => {
    const table: readonly (readonly [string, number | null])[] = [
      ["1", 1],
      ["4096", 4096],
      ["10B", 10],
      ["1K", 1000],
      ["1kb", 1000],
      ["1KiB", 1024],
      ["1Ki", 1024],
      ["150MB", 150_000_000],
      ["64MiB", 67_108_864],
      ["64 MiB", 67_108_864],
      [" 2GB ", 2_000_000_000],
      ["1GiB", 1_073_741_824],
      ["1TiB", 1024 ** 4],
      ["0", null],
      ["0GB", null],
      ["", null],
      ["MB", null],
      ["-1MB", null],
      ["1.5GB", 1_500_000_000],
      ["0.5Gi", 536_870_912],
      ["512m", 512_000_000],
      ["64000000 bytes", 64_000_000],
      ["1.GB", null],
      [".5GB", null],
      ["1,5GB", null],
      ["1PB", null],
      ["1 2", null],
      ["1iB", null],
      ["999999999999T", null],
    ];
    for (const [text, bytes] of table) expect([text, parseSizeBytes(text)]).toEqual([text, bytes]);
  });
});

describe("isLoopback", () => {
  test("is true only of addresses that can be reached from this machine alone", () => {
    for (const host of ["localhost", "LOCALHOST", "127.0.0.1", "127.255.0.9", "::1", "[::1]"]) {
      expect([host, isLoopback(host)]).toEqual([host, true]);
    }
    for (const host of [
      ...["0.0.0.0", "::", "[::]", "", "128.0.0.1", "192.168.0.1", "127.0.0.1.example.org"],
      ...["localhost.example.org", "127.1", "127.0.0.256", "::ffff:127.0.0.1"],
    ]) {
      expect([host, isLoopback(host)]).toEqual([host, false]);
    }
  });
});
