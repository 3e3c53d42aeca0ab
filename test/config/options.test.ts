/** The table of options, apart from what each option means. */
import { expect, test } from "bun:test";
import { type OptionName, TABLE } from "../../src/config/options.ts";
import type { ConfigSources } from "../../src/config/sources.ts";

const sources: ConfigSources = {
  ...{ args: [], env: {}, dotenv: null, workingDir: "/folder", executableDir: "/programs" },
  ...{ platform: "linux", hostIsFound: false, stdoutIsTty: true, stderrIsTty: true },
  readFile: () => {
    throw new Error("ENOENT: no such file");
  },
};
const names = Object.keys(TABLE) as OptionName[];

test("every option has a value if nothing is given", () => {
  for (const name of names) expect([name, TABLE[name].read(null, sources)]).toHaveProperty("1.value");
});

test("the default that users see is the default in force, except for defaults described in words", () => {
  const described = names.filter((name) => {
    const { defaultText, metavar, read } = TABLE[name];
    const isSame = JSON.stringify(read(defaultText, sources)) === JSON.stringify(read(null, sources));
    return metavar !== null && !isSame;
  });
  expect(described).toEqual([
    ...(["dbPath", "token", "tokenFile", "llmApiKey", "llmModel", "llmBudgetCalls"] as const),
    ...(["embeddingModel", "modelsDir", "ringPath", "ringCapacity", "logFormat"] as const),
  ]);
});

test("only a flag without a value has no default to show", () => {
  for (const { flag, metavar, defaultText } of Object.values(TABLE))
    expect([flag, defaultText === ""]).toEqual([flag, metavar === null]);
});
