import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { sampleOf } from "../../src/schemas/sample.ts";
import { Learner, SEED } from "./learner.ts";

setDefaultTimeout(60_000);

describe("a sample", () => {
  const sample = (value: string | number | boolean): unknown => JSON.parse(sampleOf(value, false));

  test("hides values by the names of their keys, and of the keys around them", () => {
    const learner = new Learner();
    learner.see("T", {
      access_token: "abc",
      Auth: { value: 1, deep: [{ x: "y" }] },
      cpf: 12345678909,
      action: "opened",
    });
    for (const path of ["access_token", "Auth.value", "Auth.deep[].x", "cpf"])
      expect(learner.field("T", path).sample).toBe("***");
    expect(learner.field("T", "action").sample).toBe("opened");
  });

  test("hides what looks like a secret or names a person", () => {
    expect(sample("sk_test_0A1b2C3d4E5f6G7h8I9j")).toBe("***");
    expect(sample("Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl1")).toBe("Bearer ***");
    expect(sample("https://user:pw@example.com/a?token=1#x")).toBe("https://***@example.com/a?***");
    expect(sample("fale com maria.souza@example.com.br hoje")).toBe("fale com ***@example.com.br hoje");
    expect(sample("meu CPF é 123.456.789-09")).toBe("meu CPF é 000.000.000-00");
    expect(sample("4111 1111 1111 1111")).toBe("0000 0000 0000 0000");
    expect(sample("+55 (11) 91234-5678")).toBe("+00 (00) 00000-0000");
  });

  test("shows harmless values unchanged", () => {
    for (const value of [
      "opened",
      "2024-05-01T10:11:12.345Z",
      "2024-05-01",
      "123e4567-e89b-12d3-a456-426614174000",
    ])
      expect(sample(value)).toBe(value);
    for (const value of ["https://example.com/a/b", "Quero cancelar meu plano", "R$ 1.999,90", 12.5, false])
      expect(sample(value)).toBe(value);
  });

  test("is short, well-formed and without control characters, whatever the value was", () => {
    expect(sample(`a\u0000b\u001b[31mc\u202ed\u2028${"x y ".repeat(100)}`)).toBe(
      `${`a b [31mc d ${"x y ".repeat(100)}`.slice(0, 63)}…`,
    );
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 700, size: "max" }), (value) => {
        const shown = JSON.parse(sampleOf(value, false)) as string;
        expect(shown.length).toBeLessThanOrEqual(64);
        expect(shown.isWellFormed()).toBe(true);
      }),
      { seed: SEED },
    );
  });
});
