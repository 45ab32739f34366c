/// The numbers of the protocol, under their names in `proto.md`, section "Values".

/// Magic numbers of both phases.
enum Magic {
  /// `NBDMAGIC`, the greeting's first half ("Newstyle negotiation").
  static let initial: UInt64 = 0x4e42_444d_4147_4943
  /// `IHAVEOPT`: the greeting's second half, and before each option.
  static let option: UInt64 = 0x4948_4156_454f_5054
  /// Before each reply to an option.
  static let optionReply: UInt64 = 0x0003_e889_0455_65a9
  static let request: UInt32 = 0x2560_9513
  static let extendedRequest: UInt32 = 0x21e4_1c71
  static let simpleReply: UInt32 = 0x6744_6698
  static let structuredReply: UInt32 = 0x668e_33ef
  static let extendedReply: UInt32 = 0x6e8a_278c
}

/// "Handshake flags" (server) and "Client flags": the same two bits.
enum HandshakeFlags {
  static let fixedNewstyle: UInt16 = 1 << 0
  static let noZeroes: UInt16 = 1 << 1
}

/// "Transmission flags".
package struct TransmissionFlags: OptionSet, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  package static let hasFlags = TransmissionFlags(rawValue: 1 << 0)
  package static let readOnly = TransmissionFlags(rawValue: 1 << 1)
  package static let sendFlush = TransmissionFlags(rawValue: 1 << 2)
  package static let sendFUA = TransmissionFlags(rawValue: 1 << 3)
  package static let rotational = TransmissionFlags(rawValue: 1 << 4)
  package static let sendTrim = TransmissionFlags(rawValue: 1 << 5)
  package static let sendWriteZeroes = TransmissionFlags(rawValue: 1 << 6)
  package static let sendDF = TransmissionFlags(rawValue: 1 << 7)
  package static let canMultiConn = TransmissionFlags(rawValue: 1 << 8)
  package static let sendCache = TransmissionFlags(rawValue: 1 << 10)
  package static let sendFastZero = TransmissionFlags(rawValue: 1 << 11)
  package static let blockStatusPayload = TransmissionFlags(rawValue: 1 << 12)
}

/// "Option types".
package enum OptionType: UInt32, Sendable {
  case exportName = 1
  case abort = 2
  case list = 3
  case startTLS = 5
  case info = 6
  case go = 7
  case structuredReply = 8
  case listMetaContext = 9
  case setMetaContext = 10
  case extendedHeaders = 11
}

/// "Option reply types".
package enum OptionReply: UInt32, Sendable {
  case ack = 1
  case server = 2
  case info = 3
  case metaContext = 4
  case unsupported = 0x8000_0001
  case policy = 0x8000_0002
  case invalid = 0x8000_0003
  case platform = 0x8000_0004
  case tlsRequired = 0x8000_0005
  case unknown = 0x8000_0006
  case shutdown = 0x8000_0007
  case blockSizeRequired = 0x8000_0008
  case tooBig = 0x8000_0009
  case extendedHeadersRequired = 0x8000_000a
}

/// Information types of `NBD_REP_INFO`.
enum InfoType: UInt16 {
  case export = 0
  case name = 1
  case description = 2
  case blockSize = 3
}

/// "Request types".
package enum CommandType: UInt16, Sendable, BitwiseCopyable {
  case read = 0
  case write = 1
  case disconnect = 2
  case flush = 3
  case trim = 4
  case cache = 5
  case writeZeroes = 6
  case blockStatus = 7
}

/// "Command flags".
package struct CommandFlags: OptionSet, Sendable, BitwiseCopyable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  package static let fua = CommandFlags(rawValue: 1 << 0)
  package static let noHole = CommandFlags(rawValue: 1 << 1)
  package static let dontFragment = CommandFlags(rawValue: 1 << 2)
  package static let requestOne = CommandFlags(rawValue: 1 << 3)
  package static let fastZero = CommandFlags(rawValue: 1 << 4)
  package static let payloadLength = CommandFlags(rawValue: 1 << 5)
}

/// "Structured reply types", shared by extended replies.
enum ChunkType: UInt16 {
  case none = 0
  case offsetData = 1
  case offsetHole = 2
  case blockStatus = 5
  case blockStatusExtended = 6
  case error = 0x8001
  case errorOffset = 0x8002
}

/// "Error values". ENOMEM is never sent.
package enum ErrorCode: UInt32, Sendable {
  case notPermitted = 1
  case io = 5
  case invalid = 22
  case noSpace = 28
  case overflow = 75
  case notSupported = 95
  case shutdown = 108
}

/// How replies of a connection look ("Transmission").
package enum ReplyStyle: UInt8, Sendable, BitwiseCopyable {
  /// Simple replies only.
  case simple
  /// Chunks with 20-byte headers; requests stay compact.
  case structured
  /// 32-byte headers both ways.
  case extended
}
