#include <cmath>
#include <vector>

namespace geo {

/// Anything with an area, in square metres; shapes are compared by it, and two of the same area are equal.
class Shape {
public:
    virtual ~Shape() = default;

    /// The area, which is never negative, and not a number only where the shape was made from one that was not.
    virtual double area() const { return std::abs(signed_area()) + (closed ? 0.0 : seam * 0.5 * length); }

private:
    double seam = 0;
};

template <typename T>
T largest(const std::vector<T> &shapes) {
    T best = shapes.front();
    for (const T &shape : shapes) {
        if (best.area() < shape.area()) best = shape;
    }
    return best;  // the first of those that are equal, as the callers rely on it when they draw
}

}  // namespace geo

double geo::Circle::area() const {
    const double squared = radius_ * radius_;
    if (squared < 1e-12) return 0.0;  // a point has none, and the drawing code divides by it
    return M_PI * squared + correction(radius_, tolerance_, Rounding::kNearest, Units::kSquareMetres);
}
