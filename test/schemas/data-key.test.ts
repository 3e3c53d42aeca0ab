import { describe, expect, test } from "bun:test";
import { isDataKey, shapeOf } from "../../src/schemas/data-key.ts";

describe("a key", () => {
  test.each([
    ...["0", "7", "255", "1023", "007", "1717605953", "18446744073709551615", "-1", "+3", "1.5", "10-20"],
    ...["3f2504e0-4f89-11d3-9a0c-0305e82c3301", "user_3f2504e0-4f89-11d3-9a0c-0305e82c3301"],
    ...["d41d8cd98f00b204e9800998ecf8427e", "sha256:9f86d081884c7d65", "0x9f86d081884c7d65", "65f1a2b3c4d5"],
    ...[
      "2026-11-28",
      "2026-11",
      "28/11/2026",
      "08:30",
      "2026-11-28T10:20:30.5Z",
      "2026-11-28 10:20:30-03:00",
    ],
    ...[
      "+55 11 98765-4321",
      "5511987654321",
      "(11) 98765-4321",
      "5511987654321@s.whatsapp.net",
      "123456@lid",
    ],
    ...[
      "120363025@g.us",
      "ana@example.com",
      "192.168.0.1",
      "3EB0538DA65A59F6D8A251",
      "order-100001",
      "msg_1234567",
    ],
    ...["01ARZ3NDEKTSV4RRFFQ69G5FAV", "cus_NffrFeUfNV2Hib", "-NabcDEF12ghiJKLmnop"],
  ])("such as %s is data", (key) => {
    expect(isDataKey(key)).toBe(true);
  });

  test.each([
    ...[
      "name",
      "",
      "line2",
      "address_1",
      "utm_2",
      "q1",
      "md5",
      "sha256",
      "fileSha256",
      "ipv4",
      "x2",
      "h1",
      "2fa",
    ],
    ...[
      "iso27001",
      "@type",
      "@id",
      "@",
      "a-b",
      "column_199",
      "oauth2_client_secret_expires_at",
      "customField10001",
    ],
    ...[
      "base64",
      "jpegThumbnail",
      "deadbeef",
      "prefer_2023",
      "k511",
      "é1",
      "$ref",
      "_id",
      "v1.2.3-beta",
      "utf8mb4",
    ],
    ...["messageContextInfo", "int64_value", "total_2023_q4_usd", "address line 2", "a1b2"],
  ])("such as %s is a name", (key) => {
    expect(isDataKey(key)).toBe(false);
  });

  test("has the shape of all keys that differ from it only in their numbers", () => {
    expect(shapeOf("u-17")).toBe(shapeOf("u-1234"));
    expect(shapeOf("u-0")).toBe(shapeOf("u-17"));
    expect(shapeOf("u-17")).not.toBe(shapeOf("v-17"));
    expect(shapeOf("name")).toBeNull();
  });
});
