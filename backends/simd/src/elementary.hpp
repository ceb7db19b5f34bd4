// exp and log1p of vectors of BYTES, without branches. Included once for each instruction set, inside a namespace of
// its own.
//
// exp: x = k ln 2 + r with |r| <= ln(2)/2, in two words of ln 2, of which the first has so few bits that k times it is
// exact; e^r = 1 + r + r^2 q(r), with q the minimax polynomial (relative error 3e-9 and 8e-18). 2^k is put together in
// two factors, so that a result below the least normal number is rounded once. For x <= 44 (float) and x <= 354
// (double): nothing here asks for more, because exponents are shifted where they are larger. NaN stays NaN.

template <class T>
struct Kind;

template <>
struct Kind<float> {
    typedef float V __attribute__((vector_size(BYTES)));
    typedef int32_t I __attribute__((vector_size(BYTES)));
    typedef float Half __attribute__((vector_size(BYTES / 2)));
    static constexpr float least = -104.0f, log2e = 1.44269504f, round = 12582912.0f;  // 1.5 * 2^23
    static constexpr float ln2_high = 0.693115234375f, ln2_low = 3.19461849453094e-05f;
    static constexpr int bits = 23, lift = 127 + 64;
    static constexpr float lowered = 5.42101086242752217e-20f;  // 2^-64
};

template <>
struct Kind<double> {
    typedef double V __attribute__((vector_size(BYTES)));
    typedef int64_t I __attribute__((vector_size(BYTES)));
    static constexpr double least = -746.0, log2e = 1.4426950408889634, round = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double ln2_high = 0x1.62e42fefa3000p-1, ln2_low = 0x1.3de6af278ece6p-42;
    static constexpr int bits = 52, lift = 1023 + 512;
    static constexpr double lowered = 0x1p-512;
};

INLINE Kind<float>::V beyond_linear(Kind<float>::V r) {
    return (((0.0013814579494791133863f * r + 0.0083687161615671204206f) * r + 0.041668388308628866485f) * r +
            0.16666520638297868967f) *
               r +
           0.49999993447245439658f;
}

INLINE Kind<double>::V beyond_linear(Kind<double>::V r) {
    // in two halves, because one chain of nine steps would be waited for
    Kind<double>::V z = r * r;
    Kind<double>::V even =
        (((0x1.28b410d6e38bap-22 * z + 0x1.a01993b37b05cp-16) * z + 0x1.6c16c18601e89p-10) * z + 0x1.55555555503e3p-5) *
            z +
        0x1.0000000000009p-1;
    Kind<double>::V odd =
        (((0x1.af632ad12f45bp-26 * z + 0x1.71ddf6b3f4456p-19) * z + 0x1.a01a01b00c2b1p-13) * z + 0x1.111111110f803p-7) *
            z +
        0x1.5555555555558p-3;
    return odd * r + even;
}

template <class T>
INLINE typename Kind<T>::V exp_of(typename Kind<T>::V x) {
    typedef Kind<T> K;
    typedef typename K::V V;
    typedef typename K::I I;
    V bounded = x < K::least ? V{} + K::least : x;
    V shifted = bounded * K::log2e + K::round;
    V k = shifted - K::round;
    V r = bounded - k * K::ln2_high;
    r = r - k * K::ln2_low;
    V p = r * r * beyond_linear(r) + r + T(1);
    p = x < K::least ? V{} : p;  // for a product that comes to less than anything is slow, and these are many: masks
    V lifted = (V)(((I)shifted + K::lift) << K::bits);  // 2^(k + a lift); what is not k falls out on the left
    return p * lifted * K::lowered;
}

typedef Kind<double>::V Doubles;
typedef Kind<double>::I Longs;

// log(1 + r) = log u + c/u with u = 1 + r rounded and c what that lost; log u by u = 2^k m, m between 1/sqrt 2 and sqrt
// 2, s = (m - 1)/(m + 1), log m = 2s + s z R(z) with z = s^2, of which f - f^2/2 is taken out for the sake of small
// ones.
INLINE Doubles log1p_of(Doubles r) {
    Doubles u = 1.0 + r, b = u - 1.0;
    Doubles c = ((r - b) + (1.0 - (u - b))) / u;
    Longs k = ((Longs)u - 0x3fe6a09e667f3bcdLL) >> 52;
    Doubles m = (Doubles)((Longs)u - (k << 52));
    Doubles exponent = (Doubles)(k + 0x4338000000000000LL) - Kind<double>::round;
    Doubles f = m - 1.0, s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
    Doubles series =
        ((((((0x1.2f5933d6c30a8p-3 * z + 0x1.399c613d7e26dp-3) * z + 0x1.74664f271fa2cp-3) * z + 0x1.c71c529de0f30p-3) *
               z +
           0x1.2492493fd0d15p-2) *
              z +
          0x1.99999999845d8p-2) *
             z +
         0x1.555555555557cp-1) *
        z;
    Doubles low = exponent * Kind<double>::ln2_low + c;
    Doubles result = exponent * Kind<double>::ln2_high + (f - (half - (s * (half + series) + low)));
    result = u == 0.0 ? Doubles{} - __builtin_inf() : result;
    return (r < __builtin_inf()) & (r >= -1.0) ? result : r + (r - r);  // NaN; nothing infinite comes here
}
