import Glibc
import NBDProtocol
import Testing

@Suite(.serialized) struct AllocationTests {
  /// Reads and writes of several sizes, after a warm-up, allocate nothing on the loop's thread.
  @Test(arguments: [ReplyStyle.simple, .extended]) func requestsAllocateNothing(
    style: ReplyStyle
  ) throws {
    let server = try TestServer()
    let client = try Client(server, style)
    func traffic(_ rounds: Int) {
      for i in 0..<rounds {
        let offset = UInt64(i % 50) * 4096
        _ = client.write(offset, [UInt8](repeating: 3, count: 4096))
        _ = client.read(offset, 8192)
        if i % 10 == 0 { _ = client.read(offset + 5, 2 << 20) }
        _ = client.call(3)
      }
    }
    traffic(200)
    // The snapshot of each second allocates: compare within it, in the best of several tries.
    var least = UInt64.max
    for _ in 0..<8 {
      let before = server.control.allocations
      traffic(50)
      usleep(5000)
      least = min(least, server.control.allocations - before)
    }
    #expect(least == 0)
  }
}
