import Base
import Configuration
import NBDProtocol

extension Limits {
  /// What the configuration says; the rest stays as it is.
  mutating func take(_ settings: LimitSettings) {
    func milliseconds(_ seconds: Int) -> Milliseconds { Milliseconds(UInt64(seconds) * 1000) }
    if let seconds = settings.handshakeSeconds { handshakeTime = milliseconds(seconds) }
    if let seconds = settings.sendSeconds { sendStall = milliseconds(seconds) }
    connectionsInHandshake = settings.connectionsInHandshake ?? connectionsInHandshake
    connections = settings.connections ?? connections
    options = settings.options ?? options
    optionData = settings.optionData ?? optionData
    stringBytes = settings.stringBytes ?? stringBytes
    metaQueries = settings.metaQueries ?? metaQueries
    metaContexts = settings.metaContexts ?? metaContexts
    requestsInFlight = settings.requestsInFlight ?? requestsInFlight
    bytesInFlight = settings.bytesInFlight ?? bytesInFlight
    guard let payload = settings.payload else { return }
    acceptedPayload = UInt32(payload)
    // Twice what is advertised is accepted, as by default.
    advertisedPayload = UInt32(max(4096, payload / 2 & ~4095))
  }
}
