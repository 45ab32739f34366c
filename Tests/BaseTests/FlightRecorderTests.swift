import Base
import Testing

@Suite struct FlightRecorderTests {
  private func dump(events: Int) -> String {
    withArena(FlightRecorder.bytes(capacity: 4)) { arena in
      var recorder = FlightRecorder(capacity: 4, in: &arena)
      for i in 0..<events {
        recorder.record(
          UInt16(i % 3), UInt64(i), 10, 20, at: Instant(nanoseconds: UInt64(100 * i)))
      }
      #expect(recorder.recorded == events)
      return recorder.dump(names: ["open", "close"])
    }
  }

  @Test func dumpsInOrder() {
    #expect(dump(events: 0) == "")
    #expect(dump(events: 3) == "0 open 0 10 20\n100 close 1 10 20\n200 kind 2 2 10 20\n")
  }

  @Test func keepsTheNewest() {
    #expect(
      dump(events: 6)
        == "200 kind 2 2 10 20\n300 open 3 10 20\n400 close 4 10 20\n500 kind 2 5 10 20\n")
  }
}
