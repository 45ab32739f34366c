import Testing
import thermocline

@Suite struct ConsoleTests {
  @Test(arguments: [
    (0, 0.0, "x: 0 B of 8.00 GiB"),
    (1 << 30, 0.5, "x: 1.00 GiB of 8.00 GiB, 2.00 GiB/s"),
    (1 << 30, 2.0, "x: 1.00 GiB of 8.00 GiB, 512 MiB/s, 14 s left"),
    (1 << 20, 1.0, "x: 1.00 MiB of 8.00 GiB, 1.00 MiB/s, 2 h 16 min left"),
    (8 << 30, 9.0, "x: 8.00 GiB of 8.00 GiB"),
  ] as [(UInt64, Double, String)])
  func showsAmountRateAndTimeLeft(done: UInt64, seconds: Double, text: String) {
    #expect(ProgressLine.text("x", done, of: 8 << 30, seconds: seconds) == text)
  }

  @Test(arguments: [
    (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (273_600, "3 d 4 h"),
  ] as [(UInt64, String)])
  func writesDurations(seconds: UInt64, text: String) {
    #expect(ProgressLine.duration(seconds) == text)
  }
}
