import Base
import NBDProtocol
import Testing

@Suite struct LimitsTests {
  /// What the documents promise for a configuration that says nothing.
  @Test func theDefaults() {
    let limits = Limits()
    #expect(limits.handshakeTime == Milliseconds(10_000))
    #expect(limits.connectionsInHandshake == 32)
    #expect(limits.connections == 100)
    #expect(limits.options == 32)
    #expect(limits.optionData == 64 << 10)
    #expect(limits.stringBytes == 4096)
    #expect(limits.metaQueries == 64)
    #expect(limits.metaContexts == 16)
    #expect(limits.requestsInFlight == 128)
    #expect(limits.bytesInFlight == 64 << 20)
    #expect(limits.advertisedPayload == 32 << 20)
    #expect(limits.acceptedPayload == 64 << 20)
    #expect(limits.statusDescriptors == 65_536)
    #expect(limits.sendStall == Milliseconds(60_000))
  }
}
