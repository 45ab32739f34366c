import Configuration
import Testing

@Suite struct SizeTextTests {
  @Test(arguments: [
    ("4KiB", 4096), ("512MiB", 512 << 20), ("16 GiB", 16 << 30), ("64TiB", 64 << 40),
    ("8388607TiB", 8_388_607 << 40), ("0KiB", 0),
  ] as [(String, UInt64)])
  func reads(text: String, bytes: UInt64) throws {
    #expect(try SizeText.parse(text) == bytes)
  }

  @Test(
    arguments: [
      "", "MiB", "1", "1 ", "1M", "1mib", "1  MiB", "+1MiB", "0x1MiB", "1MiB ", "١MiB",
    ])
  func refuses(text: String) {
    #expect(throws: SizeText.Problem.form) { try SizeText.parse(text) }
  }

  @Test(arguments: ["8388608TiB", "99999999999999999999KiB"])
  func refusesWhatDoesNotFit(text: String) {
    #expect(throws: SizeText.Problem.overflow) { try SizeText.parse(text) }
  }

  @Test(arguments: [
    (0, "0 bytes"), (1, "1 byte"), (4097, "4097 bytes"), (4096, "4KiB"), (3 << 29, "1536MiB"),
    (1 << 40, "1TiB"),
  ] as [(UInt64, String)])
  func writesExactly(bytes: UInt64, text: String) {
    #expect(SizeText.exact(bytes) == text)
  }

  @Test(arguments: [
    (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1_568_000_000, "1.46 GiB"),
    (10 << 20, "10.0 MiB"), (1 << 30 - 1, "1023 MiB"), (UInt64.max, "16777215 TiB"),
    (1029 << 10, "1.00 MiB"),
  ] as [(UInt64, String)])
  func writesRounded(bytes: UInt64, text: String) {
    #expect(SizeText.rounded(bytes) == text)
  }
}
