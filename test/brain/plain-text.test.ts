import { describe, expect, test } from "bun:test";
import { PlainText } from "../../src/brain/plain-text.ts";

function plainOf(...pieces: string[]): string {
  const plain = new PlainText();
  return pieces.map((piece) => plain.push(piece)).join("") + plain.end();
}

describe("plain text", () => {
  test("loses HTML tags and keeps signs that only look like them", () => {
    expect(plainOf("Olá <b>Ana</b>, 1 < 2 e 3 > 2 <3 <!-- no -->x<br/>y")).toBe(
      "Olá Ana, 1 < 2 e 3 > 2 <3 xy",
    );
  });

  test("loses a tag wherever it is cut into pieces", () => {
    const tag = "<a href='x'>";
    for (let cut = 0; cut <= tag.length; cut++)
      expect(plainOf(`1${tag.slice(0, cut)}`, `${tag.slice(cut)}2`)).toBe("12");
    expect(plainOf(..."1<script>2</script>3")).toBe("123");
  });

  test("holds back what may become a tag, and gives it out at the end if it became none", () => {
    const plain = new PlainText();
    expect([plain.push("a<b"), plain.push(" c"), plain.end(), plain.end()]).toEqual(["a", "", "<b c", ""]);
  });

  test("takes a tag of more than 500 characters for text", () => {
    expect(plainOf(`<a ${"y".repeat(600)}`, "> z")).toContain("yyy");
    expect(plainOf(`<a ${"y".repeat(400)}`, "> z")).toBe(" z");
  });

  test("loses control characters, terminal sequences and marks that reorder text, and keeps line breaks", () => {
    expect(plainOf("a\u0000b\u001b[2Jc\u0007d\ne\tf\u202eg\u2066h\u009b")).toBe("ab[2Jcd\ne\tfgh");
  });
});
