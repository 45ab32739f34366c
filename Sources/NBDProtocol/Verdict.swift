/// Why a request is answered with an error; the text goes out in an error chunk.
package enum Refusal: UInt8, Error, Sendable, BitwiseCopyable {
  case unknownCommand
  case malformed
  case unsuitableFlag
  case readOnly
  /// READ, TRIM, CACHE, BLOCK_STATUS.
  case outOfRange
  /// WRITE, WRITE_ZEROES.
  case writeOutOfRange
  case readTooLong
  case cannotStayWhole
  case noContext
  case ioError
  case noSpace
  case notFast
  case shuttingDown

  /// "Error values", chosen as the contract says.
  package var code: ErrorCode {
    switch self {
    case .unknownCommand, .malformed, .unsuitableFlag, .outOfRange, .readTooLong, .noContext:
      .invalid
    case .readOnly: .notPermitted
    case .writeOutOfRange, .noSpace: .noSpace
    case .cannotStayWhole: .overflow
    case .ioError: .io
    case .notFast: .notSupported
    case .shuttingDown: .shutdown
    }
  }

  package var text: StaticString {
    switch self {
    case .unknownCommand: "unknown command"
    case .malformed: "malformed request"
    case .unsuitableFlag: "a flag is unknown or does not belong to this command"
    case .readOnly: "the export is read-only"
    case .outOfRange: "beyond the end of the export"
    case .writeOutOfRange: "write beyond the end of the export"
    case .readTooLong: "read longer than the accepted payload"
    case .cannotStayWhole: "read too long for an unfragmented reply"
    case .noContext: "no metadata context was negotiated"
    case .ioError: "the data cannot be read or written"
    case .noSpace: "the pool is full"
    case .notFast: "zeroing this range would not be fast"
    case .shuttingDown: "the server is shutting down"
    }
  }
}

/// What is to be done about a request.
package enum Verdict: Equatable, Sendable {
  /// In range, flags known: carry it out. Never DISC; the length is not zero, FLUSH excepted.
  case perform(CommandType)
  /// Nothing to do: answer with success (after draining any payload).
  case succeed
  /// Drain the payload, then answer with this error.
  case refuse(Refusal)
  /// DISC: finish what is in flight, then close. No reply.
  case disconnect
}

extension Session {
  /// Judges a request; whatever it lets through needs no further check (N3).
  package func validate(_ request: Request) -> Verdict {
    guard let command = request.command else { return .refuse(.unknownCommand) }
    if command == .disconnect { return .disconnect }
    guard !request.isMalformed else { return .refuse(.malformed) }
    guard request.flags.isSubset(of: flags(for: command)) else {
      return .refuse(.unsuitableFlag)
    }
    switch command {
    case .write, .trim, .writeZeroes:
      if isReadOnly { return .refuse(.readOnly) }
    case .flush:
      // "For a flush request, length and offset are reserved, and MUST be set to all-zero."
      return request.offset == 0 && request.length == 0
        ? .perform(.flush) : .refuse(.malformed)
    case .blockStatus:
      if selection.count == 0 { return .refuse(.noContext) }
    case .read, .cache, .disconnect: break
    }
    return validateRange(command, request)
  }

  private func validateRange(_ command: CommandType, _ request: Request) -> Verdict {
    if request.length == 0 { return .succeed }
    guard request.length <= exportSize, request.offset <= exportSize - request.length else {
      let writes = command == .write || command == .writeZeroes
      return .refuse(writes ? .writeOutOfRange : .outOfRange)
    }
    if command == .read {
      if request.length > UInt64(acceptedPayload) { return .refuse(.readTooLong) }
      if request.flags.contains(.dontFragment) && request.length > UInt64(unfragmentedRead) {
        return .refuse(.cannotStayWhole)
      }
    }
    if command == .blockStatus && request.contexts & selectionMask == 0 { return .succeed }
    return .perform(command)
  }

  /// The bits of `Request.contexts` that mean something.
  package var selectionMask: UInt16 {
    selection.count >= 16 ? .max : (1 << UInt16(selection.count)) - 1
  }

  /// "Command flags": FUA goes with all commands, the rest where documented and advertised.
  private func flags(for command: CommandType) -> CommandFlags {
    switch command {
    case .read: style == .simple ? .fua : [.fua, .dontFragment]
    case .write: style == .extended ? [.fua, .payloadLength] : .fua
    case .writeZeroes: [.fua, .noHole, .fastZero]
    case .blockStatus:
      style == .extended ? [.fua, .requestOne, .payloadLength] : [.fua, .requestOne]
    case .flush, .trim, .cache, .disconnect: .fua
    }
  }
}
